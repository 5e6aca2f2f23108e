"""One way to call the service over grpcio: `call = client("127.0.0.1:50051", "descriptors.bin")`, then `call("MuteService", "CheckSend", {"app": ...})`.

Messages are JSON with the names of the proto files. The messages are made from the descriptors, so no stubs are generated."""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

TOKEN = [("authorization", "Bearer dev-service-token")]


def client(address, descriptors, channel=None, **arguments):
    pool = descriptor_pool.DescriptorPool()
    with open(descriptors, "rb") as file:
        for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(proto)
    channel = channel or grpc.insecure_channel(address)

    def call(service, method, message):
        described = pool.FindServiceByName(f"mute.v1.{service}").methods_by_name[method]
        ask, answer = (message_factory.GetMessageClass(each) for each in (described.input_type, described.output_type))
        path = f"/mute.v1.{service}/{method}"
        unary = channel.unary_unary(path, request_serializer=ask.SerializeToString, response_deserializer=answer.FromString)
        response = unary(json_format.ParseDict(message, ask()), metadata=TOKEN, **arguments)
        return json_format.MessageToDict(response, preserving_proto_field_name=True)

    return call

// One way to call the service over either library of Node.js:
//
//     const call = client("grpc-js" | "connect", "127.0.0.1:50051", "descriptors.bin", ...)
//     const answer = await call("MuteService", "CheckSend", { app, room, user })
//
// Messages are JSON with the names of the proto files. More arguments are the library's own: the options of a channel and the metadata of its calls,
// or a transport.

import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { createFileRegistry, fromBinary, fromJson, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

const PACKAGE = "mute.v1";
const TOKEN = "Bearer dev-service-token";
const DEADLINE_MS = 30_000;

function grpcJs(address, descriptors, options = {}, metadata = new grpc.Metadata()) {
  const names = { keepCase: true, longs: String, enums: String };
  const definition = loader.loadFileDescriptorSetFromBuffer(readFileSync(descriptors), names);
  const services = grpc.loadPackageDefinition(definition).mute.v1;
  const clients = {};
  metadata.set("authorization", TOKEN);
  return (service, method, message) => {
    clients[service] ??= new services[service](address, grpc.credentials.createInsecure(), options);
    const deadline = Date.now() + DEADLINE_MS;
    return new Promise((resolve, reject) =>
      clients[service][method](message, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer))),
    );
  };
}

function connect(address, descriptors, transport = createGrpcTransport({ baseUrl: `http://${address}` })) {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
  return async (service, method, message) => {
    const described = registry.getService(`${PACKAGE}.${service}`);
    const { localName, input, output } = described.methods.find(({ name }) => name === method);
    const options = { headers: { authorization: TOKEN }, timeoutMs: DEADLINE_MS };
    const answer = await createClient(described, transport)[localName](fromJson(input, message), options);
    return toJson(output, answer, { useProtoFieldName: true });
  };
}

export const client = (library, ...rest) => ({ "grpc-js": grpcJs, connect })[library](...rest);

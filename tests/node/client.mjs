// One way to call the service over either library of Node.js, each at its defaults.
//
//     const call = client("grpc-js" | "connect", "127.0.0.1:50051", "descriptors.bin", options)
//     const answer = await call("MuteService", "CheckSend", { app, room, user })
//
// Messages are JSON with the names of the proto files.

import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { createFileRegistry, fromBinary, fromJson, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

const PACKAGE = "mute.v1";
const TOKEN = "Bearer dev-service-token";

function grpcJs(address, descriptors, options) {
  const definition = loader.loadFileDescriptorSetFromBuffer(readFileSync(descriptors), {
    keepCase: true,
    longs: String,
    enums: String,
  });
  const services = grpc.loadPackageDefinition(definition).mute.v1;
  const metadata = new grpc.Metadata();
  metadata.set("authorization", TOKEN);
  return (service, method, message) => {
    const client = new services[service](address, grpc.credentials.createInsecure(), options);
    return new Promise((resolve, reject) =>
      client[method](message, metadata, (error, answer) => {
        client.close();
        if (error) reject(error);
        else resolve(answer);
      }),
    );
  };
}

function connect(address, descriptors, options) {
  const files = fromBinary(FileDescriptorSetSchema, readFileSync(descriptors));
  const registry = createFileRegistry(files);
  const transport = createGrpcTransport({ baseUrl: `http://${address}`, ...options });
  return async (service, method, message) => {
    const described = registry.getService(`${PACKAGE}.${service}`);
    const { localName, input, output } = described.methods.find(({ name }) => name === method);
    const request = fromJson(input, message);
    const headers = { authorization: TOKEN };
    const answer = await createClient(described, transport)[localName](request, { headers });
    return toJson(output, answer, { useProtoFieldName: true });
  };
}

export const client = (library, ...rest) => ({ "grpc-js": grpcJs, connect })[library](...rest);

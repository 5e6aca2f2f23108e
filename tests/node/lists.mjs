// Makes calls at the defaults of a library, and pages through each list:
//
//     node lists.mjs grpc-js|connect ADDRESS DESCRIPTORS TASK
//
// TASK is a file: {"app": ..., "calls": [[SERVICE, METHOD, MESSAGE, FIELD], ...], "gzip": false}. Prints how many elements the field has in all
// pages of each call. With "gzip", messages are compressed.

import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import { compressionGzip, createGrpcTransport } from "@connectrpc/connect-node";
import { client } from "./client.mjs";

const [library, address, descriptors, task] = process.argv.slice(2);
const { app, calls, gzip } = JSON.parse(readFileSync(task));
const compressing = {
  "grpc-js": () => ({ "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip }),
  connect: () => createGrpcTransport({ baseUrl: `http://${address}`, sendCompression: compressionGzip }),
};
const call = client(library, address, descriptors, gzip ? compressing[library]() : undefined);

async function count([service, method, message, field]) {
  let elements = 0;
  let token = "";
  do {
    const page = token ? { page_token: token } : {};
    const answer = await call(service, method, { app, ...message, ...page });
    const value = field.split(".").reduce((part, name) => part?.[name], answer);
    elements += value?.length ?? 0;
    token = answer.next_page_token;
  } while (token);
  return elements;
}

const counts = [];
for (const one of calls) counts.push(await count(one));
console.log(JSON.stringify(counts));
process.exit(0);

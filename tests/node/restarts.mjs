// Calls without a pause over a library that is set up as deploy/README.md says, from the directory of that file:
//
//     node restarts.mjs grpc-js|connect ADDRESS DESCRIPTORS
//
// Prints "calling" first. For each line of its standard input it prints which calls have failed since the last one, as soon as a call that begins
// after the line has ended.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { Code, ConnectError } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { client } from "./client.mjs";

const [library, address, descriptors] = process.argv.slice(2);
const MESSAGE = { app: "Open", room: "room", user: "user" };

// The example of deploy/README.md that names this package.
function example(name) {
  const blocks = readFileSync("README.md", "utf8").matchAll(/^```js\n([^]*?)^```/gm);
  for (const [, code] of blocks) if (code.includes(name)) return code;
  throw new Error(`deploy/README.md has no example for ${name}`);
}

// What the example defines under this name.
function defined(code, result, given) {
  return new Function(...Object.keys(given), `${code}; return ${result}`)(...Object.values(given));
}

function call() {
  if (library === "grpc-js") {
    const { options, metadata } = defined(example("@grpc/grpc-js"), "{ options, metadata }", { grpc, readFileSync });
    return client("grpc-js", address, descriptors, options, metadata);
  }
  const given = { Code, ConnectError, createGrpcTransport, sleep, baseUrl: `http://${address}` };
  return client("connect", address, descriptors, defined(example("@connectrpc/connect-node"), "transport", given));
}

let isAsked = false;
createInterface({ input: process.stdin })
  .on("line", () => (isAsked = true))
  .on("close", () => process.exit(0));

const check = call();
let failed = [];
console.log("calling");
for (;;) {
  const tells = isAsked;
  await check("MuteService", "CheckSend", MESSAGE).catch((error) => failed.push(String(error)));
  if (tells) {
    console.log(JSON.stringify(failed));
    [isAsked, failed] = [false, []];
  }
  await sleep(1);
}

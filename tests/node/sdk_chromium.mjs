// node sdk_chromium.mjs SCRIPT_OF_THE_SDK REST_URL TOKEN: the same as sdk_jsdom.mjs in Chromium, from a page of a server on this machine.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { browse } from "./chromium.mjs";

const [sdk, rest, token] = process.argv.slice(2);
const script = (name) => readFileSync(new URL(name, import.meta.url));
const files = { "/sdk.js": script(`node_modules/${sdk}`), "/calls.js": script("sdk_calls.js") };
const html = '<!doctype html><script src="/sdk.js"></script><script src="/calls.js"></script>';
const server = createServer((request, response) => {
  const content = files[request.url];
  response.setHeader("content-type", content ? "text/javascript" : "text/html").end(content ?? html);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const answers = await browse(async (page) => {
  await page.goto(`http://localhost:${server.address().port}/`);
  return page.evaluate((...at) => window.callGateway(...at), rest, token);
});
process.stdout.write(JSON.stringify(answers));
process.exit(0);

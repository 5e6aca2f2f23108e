// node sdk_jsdom.mjs SCRIPT_OF_THE_SDK REST_URL TOKEN ORIGIN: calls the gateway from a page of this origin in jsdom; prints the answers as JSON.
import { readFileSync } from "node:fs";
import { JSDOM, VirtualConsole } from "jsdom";

const [sdk, rest, token, origin] = process.argv.slice(2);
const script = (name) => readFileSync(new URL(name, import.meta.url), "utf8");
const options = { url: `${origin}/`, runScripts: "outside-only", virtualConsole: new VirtualConsole() };
const { window } = new JSDOM("<!doctype html>", options);
window.eval(script(`node_modules/${sdk}`));
window.eval(script("sdk_calls.js"));
process.stdout.write(JSON.stringify(await window.callGateway(rest, token)));
process.exit(0);

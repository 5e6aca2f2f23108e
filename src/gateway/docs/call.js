// One call: its request, the same as a curl command, and its answer.

import { h, pretty } from "./dom.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Builds a request: `values` by parameter location and name, `credentials` by header, `body` as text. */
export function request(method, path, values, credentials, body) {
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(values.path?.[name] ?? ""));
  const query = new URLSearchParams(Object.entries(values.query ?? {}).filter(([, value]) => value !== ""));
  const url = `${location.origin}${filled}${query.size ? `?${query}` : ""}`;
  const headers = Object.fromEntries(
    [...Object.entries(credentials), ...Object.entries(values.header ?? {})].filter(([, value]) => value !== ""));
  if (body) headers["Content-Type"] = "application/json";
  return { method: method.toUpperCase(), url, headers, body: body || undefined };
}

/** The curl command that sends the same request, a line for each option. */
export function curl({ method, url, headers, body }) {
  const words = [`curl -X ${method} ${quoted(url)}`];
  for (const [name, value] of Object.entries(headers)) words.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body) words.push(`-d ${quoted(body)}`);
  return words.join(" \\\n  ");
}

/** Sends a request, and measures how long the answer takes. */
export async function send({ method, url, headers, body }) {
  const started = performance.now();
  const response = await fetch(url, { method, headers, body, credentials: "omit", cache: "no-store" });
  const text = await response.text();
  const ms = Math.round(performance.now() - started);
  return { status: response.status, ok: response.ok, headers: [...response.headers], text, ms };
}

/** The elements that show an answer. */
export function rendered({ status, ok, headers, text, ms }) {
  let body = text;
  try {
    body = pretty(JSON.parse(text));
  } catch {
    // Not JSON: shown as text.
  }
  return [
    h("p", { class: ok ? "status good" : "status bad" }, h("strong", {}, `${status}`), ` in ${ms} ms`),
    h("pre", { tabindex: "0", "aria-label": "Body of the answer" }, body),
    h("details", {}, h("summary", {}, "Headers"), h("pre", {}, headers.map(([name, value]) => `${name}: ${value}`).join("\n"))),
  ];
}

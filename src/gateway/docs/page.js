// The page: the operations of /openapi.json by tag, each with a form that sends it.

import { curl, rendered, request, send } from "./call.js";
import { breakable, h, paragraphs, pretty, prose } from "./dom.js";
import { fields, resolve, summary } from "./schema.js";

const METHODS = ["get", "post", "delete"];
const api = await (await fetch("/openapi.json")).json();
const schemes = api.components.securitySchemes;
const byName = (id) => document.getElementById(id);
/** The input element of each security scheme. */
const secrets = {};

function header(scheme) {
  return schemes[scheme].name ?? "Authorization";
}

/** The values of an operation's security schemes by header; empty where the field is empty. */
function credentials(operation) {
  const names = Object.keys(operation.security?.[0] ?? {});
  return Object.fromEntries(names.map((name) => {
    const value = secrets[name].value.trim();
    return [header(name), value && schemes[name].scheme === "bearer" ? `Bearer ${value}` : value];
  }));
}

function operations() {
  const all = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((part) => resolve(api, part));
      return { path, method, operation, parameters };
    }));
  return api.tags.map((tag) => ({ ...tag, operations: all.filter(({ operation }) => operation.tags.includes(tag.name)) }));
}

function credentialFields() {
  const rows = Object.entries(schemes).map(([name, scheme]) => {
    const id = `secret-${name}`;
    secrets[name] = h("input", { id, autocomplete: "off", spellcheck: "false" });
    const words = h("span", { class: "words", id: `${id}-words` }, prose(scheme.description));
    secrets[name].setAttribute("aria-describedby", words.id);
    return h("div", { class: "row" }, h("label", { for: id }, header(name), name === "Bearer" ? ": Bearer" : ""), secrets[name], words);
  });
  const status = h("span", { role: "status" });
  const fill = h("button", { type: "button", click: () => fillForDev().then((words) => status.replaceChildren(words)) }, "Use the credentials of dev mode");
  byName("credentials").append(
    h("h2", { id: "credentials-title" }, "Credentials"),
    h("p", { class: "words" }, "They are kept in this page only, until it is closed or reloaded."),
    ...rows, h("p", { class: "actions" }, fill, status));
}

/** Fills in the public keys of dev mode, and tokens issued for them. */
async function fillForDev() {
  const post = async (path, headers, body) =>
    JSON.parse((await send({ method: "POST", url: location.origin + path, headers, body: JSON.stringify(body) })).text);
  const keys = { ApiKey: "dev-api-key", ClientKey: "dev-client-key" };
  try {
    const client = { grant_type: "client_credentials", client_id: "dev-client", client_secret: "dev-secret" };
    const app = await post("/easemob-demo/testapp/token", {}, client);
    const user = await post("/admin/clients", { "IM-API-KEY": keys.ApiKey }, { _id: "1485248560558", issueAccessToken: true });
    if (!app.access_token || !user.result?.token) return "This server does not run in dev mode (--dev).";
    const values = { ...keys, Bearer: app.access_token, UserToken: user.result.token };
    for (const [name, value] of Object.entries(values)) secrets[name].value = value;
    byName("credentials").dispatchEvent(new Event("input"));
    return "Filled in.";
  } catch (error) {
    return `${error}`;
  }
}

function parameterRow(operation, parameter) {
  const id = `${operation.operationId}-${parameter.name}`;
  const input = h("input", { id, value: parameter.example ?? "", autocomplete: "off", spellcheck: "false", "data-in": parameter.in, "data-name": parameter.name });
  return h("div", { class: "row" },
    h("label", { for: id }, parameter.name, parameter.required ? h("span", { class: "required" }, "required") : ""),
    input,
    h("span", { class: "words" }, h("span", { class: "place" }, parameter.in), prose(parameter.description), " ", summary(api, parameter.schema)));
}

function bodyField(operation) {
  const content = operation.requestBody?.content["application/json"];
  if (!content) return {};
  const id = `${operation.operationId}-body`;
  const examples = content.examples ?? { example: { value: content.example } };
  const first = Object.values(examples)[0].value;
  const text = h("textarea", { id, rows: pretty(first).split("\n").length + 1, spellcheck: "false" }, pretty(first));
  const others = Object.entries(examples).map(([name, { value }]) =>
    h("button", { type: "button", class: "quiet", click: () => (text.value = pretty(value)) }, name));
  return {
    text,
    row: h("div", { class: "body" },
      h("label", { for: id }, "Body", operation.requestBody.required ? h("span", { class: "required" }, "required") : ""),
      others.length > 1 ? h("span", { class: "actions" }, others) : "",
      text, fields(api, content.schema, { sent: true })),
  };
}

function responses(operation) {
  return Object.entries(operation.responses).map(([status, part]) => {
    const response = resolve(api, part);
    const content = response.content?.["application/json"];
    return h("details", { class: "answer" },
      h("summary", {}, h("strong", {}, status), " ", h("span", {}, prose(response.description))),
      Object.keys(response.headers ?? {}).map((name) => h("p", { class: "words" }, h("code", {}, name), " ", resolve(api, response.headers[name]).description)),
      fields(api, content?.schema ?? {}, { sent: false }),
      content?.example ? h("pre", { tabindex: "0", "aria-label": "Example" }, pretty(content.example)) : "");
  });
}

function tryIt({ path, method, operation, parameters }) {
  const body = bodyField(operation);
  const rows = parameters.map((parameter) => parameterRow(operation, parameter));
  const line = h("pre", { class: "curl", tabindex: "0", "aria-label": "The same request as a curl command" });
  const answer = h("div", { role: "status", class: "result" });
  const buildCall = () => {
    const values = {};
    for (const input of form.querySelectorAll("input[data-in]")) (values[input.dataset.in] ??= {})[input.dataset.name] = input.value;
    return request(method, path, values, credentials(operation), body.text?.value.trim());
  };
  const submit = async (event) => {
    event.preventDefault();
    const call = buildCall();
    line.textContent = curl(call);
    try {
      answer.replaceChildren(...rendered(await send(call)));
    } catch (error) {
      answer.replaceChildren(h("p", { class: "status bad" }, `No answer: ${error.message}`));
    }
  };
  const trigger = h("button", {}, "Try it");
  const missing = h("span", { class: "words" });
  // The answer to a call without its credentials says only that they are missing.
  const refresh = () => {
    const empty = Object.entries(credentials(operation)).filter(([, value]) => !value).map(([name]) => name);
    trigger.disabled = empty.length > 0;
    missing.replaceChildren(...(empty.length ? ["First fill in ", h("a", { href: "#credentials" }, empty.join(" and ")), "."] : []));
    line.textContent = curl(buildCall());
  };
  byName("credentials").addEventListener("input", refresh);
  const copy = h("button", { type: "button", class: "quiet", click: () => navigator.clipboard?.writeText(curl(buildCall())) }, "Copy as curl");
  const form = h("form", { submit, input: refresh }, rows, body.row, h("p", { class: "actions" }, trigger, copy, missing), line, answer);
  refresh();
  return form;
}

function operationCard(entry) {
  const { path, method, operation } = entry;
  const needs = Object.keys(operation.security?.[0] ?? {}).map((name) => header(name));
  const card = h("details", { class: "operation", id: operation.operationId, "data-words": `${method} ${path} ${operation.summary}`.toLowerCase() },
    h("summary", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), h("code", { class: "path" }, breakable(path)), h("span", { class: "what" }, operation.summary)));
  // The content is built when the card is first opened: the document has many operations.
  card.addEventListener("toggle", () => {
    card.append(
      h("div", { class: "inside" }, paragraphs(operation.description),
        h("p", { class: "words" }, needs.length ? ["Credentials: ", needs.join(", ")] : "No credentials are needed."),
        tryIt(entry), h("h4", {}, "Answers"), responses(operation)));
  }, { once: true });
  return card;
}

function open(id) {
  const card = byName(id);
  if (card?.matches("details")) card.open = true;
}

function show() {
  document.title = `${api.info.title}: REST API`;
  byName("title").textContent = `${api.info.title} ${api.info.version}`;
  byName("about").append(...paragraphs(api.info.description));
  credentialFields();
  for (const { name, description, operations: entries } of operations()) {
    const cards = entries.map(operationCard);
    byName("operations").append(h("section", {}, h("h2", {}, name), h("p", {}, prose(description)), cards));
    const links = entries.map(({ method, operation }) =>
      h("li", {}, h("a", { href: `#${operation.operationId}`, click: () => open(operation.operationId) }, h("span", { class: `method ${method}` }, method.toUpperCase()), operation.summary)));
    byName("contents").append(h("details", { open: !name.includes("by app id") }, h("summary", {}, name), h("ul", {}, links)));
  }
  byName("filter").addEventListener("input", ({ target }) => {
    for (const card of document.querySelectorAll(".operation")) card.hidden = !card.dataset.words.includes(target.value.toLowerCase());
    for (const part of document.querySelectorAll("#operations > section")) part.hidden = !part.querySelector(".operation:not([hidden])");
  });
  open(location.hash.slice(1));
}

show();

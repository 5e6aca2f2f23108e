// Renders schemas as nested lists of names, types and limits.

import { h, prose } from "./dom.js";

/** The target of a reference in the document, with the fields beside the reference; any other part as it is. */
export function resolve(api, part) {
  if (!part?.$ref) return part;
  const named = part.$ref.slice(2).split("/").reduce((at, name) => at[name], api);
  return { ...resolve(api, named), ...Object.fromEntries(Object.entries(part).filter(([name]) => name !== "$ref")) };
}

function type(api, schema) {
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.anyOf) return schema.anyOf.map((part) => type(api, resolve(api, part))).join(" or ");
  if (schema.type === "array") return `array of ${type(api, resolve(api, schema.items))}`;
  return [schema.type ?? "anything"].flat().join(" or ");
}

function range(from, to, unit = "") {
  if (from === undefined && to === undefined) return undefined;
  if (to === undefined) return `from ${from}${unit}`;
  return from === undefined ? `at most ${to}${unit}` : `${from} to ${to}${unit}`;
}

/** The type and limits of a schema, on one line. */
export function summary(api, schema) {
  const full = resolve(api, schema);
  const pattern = full.pattern ?? full.anyOf?.map((part) => resolve(api, part).pattern).find(Boolean);
  const limit = (word, value) => (value === undefined ? undefined : `${word} ${value}`);
  const words = [
    range(full.minimum, full.maximum), limit("not", full.not?.const), range(full.minLength, full.maxLength, " characters"),
    range(full.minItems, full.maxItems, " items"), limit("default", full.default), limit("format", full.format),
  ].filter(Boolean);
  return [
    h("span", { class: "type" }, type(api, full)),
    words.length ? h("span", { class: "limits" }, words.join(", ")) : "",
    pattern ? h("code", { class: "pattern" }, pattern) : "",
  ];
}

/** The fields of a schema; required ones are marked if it is `sent`. Undefined if it has no fields. */
export function fields(api, schema, { sent }) {
  const full = resolve(api, schema);
  const inner = full.type === "array" ? full.items : full.anyOf?.find((part) => resolve(api, part).properties);
  if (inner) return fields(api, inner, { sent });
  const properties = Object.entries(full.properties ?? {});
  if (!properties.length) return undefined;
  return h("ul", { class: "fields" }, properties.map(([name, field]) =>
    h("li", {},
      h("code", { class: "name" }, name),
      sent && full.required?.includes(name) ? h("span", { class: "required" }, "required") : "",
      summary(api, field),
      h("span", { class: "words" }, prose(resolve(api, field).description)),
      fields(api, field, { sent }))));
}

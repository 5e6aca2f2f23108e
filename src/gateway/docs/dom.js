// Elements, made without any markup of what the document says.

/** An element with attributes (functions are listeners, true is an empty attribute) and children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== ""));
  return element;
}

/** Text whose `words in backticks` are code. */
export function prose(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/** Each paragraph of a text. */
export function paragraphs(text = "") {
  return text.split("\n\n").filter(Boolean).map((part) => h("p", {}, prose(part)));
}

/** JSON as people read it. */
export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

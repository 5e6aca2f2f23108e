// Builds elements. Text of the document is never parsed as markup.

/** An element with attributes and children. A function is a listener; true is an empty attribute. */
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

/** Text in which `words in backticks` are code elements. */
export function prose(text = "") {
  return text.split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

/** The paragraphs of a text, which blank lines separate. */
export function paragraphs(text = "") {
  return text.split("\n\n").filter(Boolean).map((part) => h("p", {}, prose(part)));
}

/** A path, which may be broken before each slash and nowhere else. */
export function breakable(path) {
  return path.split(/(?=\/)/).flatMap((part) => [h("wbr"), part]);
}

/** Indented JSON. */
export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

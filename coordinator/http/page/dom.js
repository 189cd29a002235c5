// SPDX-License-Identifier: MIT
// Making elements. Nothing in this page is ever made from text that is taken for HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (functions are listeners, false and null are left out) and children (text or nodes). */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

const STROKES = {
  menu: "M4 6h16M4 12h16M4 18h16",
  plus: "M12 5v14M5 12h14",
  pencil: "M4 20l1-4L16 5l3 3L8 19l-4 1z",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  again: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.500 1.500M17.500 17.500L19 19M5 19l1.500-1.500M17.500 6.500L19 5",
  moon: "M20 14A8.500 8.500 0 0 1 10 4a8.500 8.500 0 1 0 10 10z",
  done: "M5 13l4 4L19 7",
};

/** A small picture; whatever holds it has a name in words. */
export function icon(name) {
  return drawn("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, drawn("path", { d: STROKES[name] }));
}

/** The same text is not put there again: what somebody has selected stays selected. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Says it to screen readers, once. */
export function announce(text) {
  const status = byId("status");
  status.textContent = "";
  setTimeout(() => { status.textContent = text; }, 50);
}

/** Puts text on the clipboard, also over plain HTTP, where browsers have no clipboard for pages. */
export async function copy(text) {
  if (navigator.clipboard !== undefined) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
  const before = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  before?.focus();
}

/** A button that copies what `text` gives, and says so. */
export function copyButton(text, label = "Copy") {
  const words = element("span", {}, label);
  const button = element("button", { type: "button", class: "plain small", click: () => pressed() }, icon("copy"), words);
  async function pressed() {
    try {
      await copy(text());
      words.textContent = "Copied";
    } catch {
      words.textContent = "The browser did not let it be copied";
    }
    setTimeout(() => { words.textContent = label; }, 1500);
  }
  return button;
}

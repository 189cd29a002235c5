// SPDX-License-Identifier: MIT
// Markdown within a paragraph, as nodes: code, bold, italic, struck, links. What is not understood stays as it was written.

import { element } from "./dom.js";

const DEEPEST = 6;
const LONGEST = 2000; // characters between two marks; also bounds the time that hostile text takes
const MARKS = [["***", "strong"], ["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const ESCAPABLE = "\\`*_{}[]()#+-.!|~<>";
const ADDRESS = /^https?:\/\/[^\s<>"'`]+/i;

/** The nodes of a text. */
export function inline(text, depth = 0) {
  const nodes = [];
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) nodes.push(plain);
    plain = "";
  };
  while (at < text.length) {
    const found = special(text, at, depth);
    if (found === null) {
      plain += text[at];
      at += 1;
      continue;
    }
    if (typeof found.node === "string") {
      plain += found.node;
    } else {
      flush();
      nodes.push(found.node);
    }
    at = found.end;
  }
  flush();
  return nodes;
}

/** What begins here, with where it ends; null: an ordinary character. */
function special(text, at, depth) {
  switch (text[at]) {
    case "\\": return escaped(text, at);
    case "\n": return { node: element("br"), end: at + 1 };
    case "`": return code(text, at);
    case "!": return text[at + 1] === "[" && depth < DEEPEST ? link(text, at + 1, depth) : null;
    case "[": return depth < DEEPEST ? link(text, at, depth) : null;
    case "<": return bracketed(text, at);
    case "h": case "H": return bare(text, at);
    case "*": case "_": case "~": return depth < DEEPEST ? marked(text, at, depth) : null;
    default: return null;
  }
}

function escaped(text, at) {
  const next = text[at + 1];
  return next !== undefined && ESCAPABLE.includes(next) ? { node: next, end: at + 2 } : null;
}

function code(text, at) {
  let n = 1;
  while (text[at + n] === "`") n += 1;
  const fence = "`".repeat(n);
  const end = within(text, fence, at + n);
  if (end === -1) return { node: fence, end: at + n };
  const inner = text.slice(at + n, end).replaceAll("\n", " ");
  const trimmed = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() ? inner.slice(1, -1) : inner;
  return { node: element("code", {}, trimmed), end: end + n };
}

/** Where a mark comes again, if it does soon enough. */
function within(text, mark, from) {
  const end = text.slice(from, from + LONGEST).indexOf(mark);
  return end === -1 ? -1 : from + end;
}

function marked(text, at, depth) {
  const known = MARKS.find(([mark]) => text.startsWith(mark, at));
  if (known === undefined) return null;
  const [mark, tag] = known;
  const from = at + mark.length;
  const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);
  if (text[from] === undefined || /\s/.test(text[from])) return { node: mark, end: from };
  if (mark[0] === "_" && isWord(text[at - 1])) return { node: mark, end: from };
  const until = Math.min(text.length, from + LONGEST);
  for (let end = text.indexOf(mark, from); end !== -1 && end < until; end = text.indexOf(mark, end + 1)) {
    const closes = end > from && !/\s/.test(text[end - 1]) && text[end - 1] !== "\\";
    const isLonger = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
    if (!closes || isLonger || (mark[0] === "_" && isWord(text[end + mark.length]))) continue;
    const inner = inline(text.slice(from, end), depth + 1);
    return { node: element(tag, {}, mark.length === 3 ? element("em", {}, inner) : inner), end: end + mark.length };
  }
  return { node: mark, end: from };
}

function link(text, at, depth) {
  const close = within(text, "](", at);
  if (close === -1) return null;
  const label = text.slice(at + 1, close);
  const end = within(text, ")", close);
  if (end === -1 || label.includes("[") || label.includes("\n\n")) return null;
  const target = text.slice(close + 2, end).trim().split(/\s/, 1)[0].replace(/^<|>$/g, "");
  const node = anchor(target, inline(label, depth + 1));
  return node === null ? { node: text.slice(at, end + 1), end: end + 1 } : { node, end: end + 1 };
}

function bracketed(text, at) {
  const end = within(text, ">", at);
  if (end === -1 || !ADDRESS.test(text.slice(at + 1, end))) return null;
  const node = anchor(text.slice(at + 1, end), [text.slice(at + 1, end)]);
  return node && { node, end: end + 1 };
}

function bare(text, at) {
  if (at > 0 && /[\p{L}\p{N}]/u.test(text[at - 1])) return null;
  const found = ADDRESS.exec(text.slice(at, at + LONGEST));
  if (found === null) return null;
  const address = found[0].replace(/[.,;:!?)*_\]]+$/, "");
  const node = anchor(address, [address]);
  return node && { node, end: at + address.length };
}

/** A link to elsewhere; null where it leads to anything but a web page. */
function anchor(target, children) {
  let address;
  try {
    address = new URL(target);
  } catch {
    return null;
  }
  if (address.protocol !== "https:" && address.protocol !== "http:") return null;
  const attributes = { href: address.href, title: address.href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", attributes, children);
}

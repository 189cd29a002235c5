// SPDX-License-Identifier: MIT
// A small Markdown: text to elements, block by block. Text is only ever text: no HTML, no pictures from elsewhere.

import { copyButton, element } from "./dom.js";
import { inline } from "./inline.js";

const DEEPEST = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( {0,7})([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const QUOTE = /^ {0,3}>\s?/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Lays a text out within an element. Blocks that are as they were stay the same nodes: a stream changes only its end,
 *  and what somebody has selected stays selected. */
export function lay(target, text) {
  const blocks = split(text);
  const before = target.blocks ?? [];
  let same = 0;
  while (same < blocks.length && same < before.length && before[same] === blocks[same].source) same += 1;
  while (target.childNodes.length > same) target.lastChild.remove();
  for (const block of blocks.slice(same)) target.append(shown(block, 0));
  target.blocks = blocks.map((block) => block.source);
}

/** The blocks of a text, each {kind, lines, source, ...}. */
function split(text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, end] = next(lines, at);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") + (end < lines.length ? "\n" : "") });
    at = end;
  }
  return blocks;
}

function next(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = heading[2].replace(/\s+#+\s*$/, "");
    return [{ kind: "heading", level: heading[1].length, text }, at + 1];
  }
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (QUOTE.test(line)) return quoted(lines, at);
  if (ITEM.test(line)) return listed(lines, at);
  if (isTable(lines, at)) return tabled(lines, at);
  return paragraph(lines, at);
}

function fenced(lines, at, [, mark, language]) {
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end], mark)) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  return [{ kind: "code", language, code }, Math.min(lines.length, end + 1)];
}

function isEnd(line, mark) {
  const bare = line.trim();
  return bare.length >= mark.length && bare === mark[0].repeat(bare.length);
}

function quoted(lines, at) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  return [{ kind: "quote", lines: lines.slice(at, end).map((line) => line.replace(QUOTE, "")) }, end];
}

/** A list: items with the lines that are indented under them. */
function listed(lines, at) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const line = lines[end];
    const item = ITEM.exec(line);
    const depth = line.length - line.trimStart().length;
    if (item && depth < indent.length + 2 && !RULE.test(line)) {
      if (depth < indent.length || /\d/.test(item[2]) !== isOrdered) break;
      items.push([line.slice(item[0].length)]);
    } else if (line.trim() && (depth > indent.length || (lines[end - 1].trim() && !begins(line)))) {
      items.at(-1).push(line.slice(Math.min(depth, indent.length + mark.length + 1)));
    } else if (!line.trim() && goesOn(lines, end, indent.length)) {
      items.at(-1).push("");
    } else {
      break;
    }
    end += 1;
  }
  return [{ kind: "list", isOrdered, start: Number.parseInt(mark, 10) || 1, items }, end];
}

/** Whether a list goes on behind an empty line. */
function goesOn(lines, at, indent) {
  const line = lines[at + 1] ?? "";
  return Boolean(line.trim()) && (ITEM.test(line) || line.length - line.trimStart().length > indent);
}

function isTable(lines, at) {
  const divider = lines[at + 1];
  return lines[at].includes("|") && divider !== undefined && divider.includes("-") && divider.includes("|")
    && DIVIDER.test(divider);
}

function tabled(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
  return [{ kind: "table", head: cells(lines[at]), rows: lines.slice(at + 2, end).map(cells) }, end];
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end]) && !isTable(lines, end)) end += 1;
  return [{ kind: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end];
}

/** Whether another kind of block begins with this line. */
function begins(line) {
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));
}

function shown(block, depth) {
  switch (block.kind) {
    case "heading": return element(`h${Math.min(6, block.level + 2)}`, {}, inline(block.text));
    case "rule": return element("hr");
    case "code": return codeBlock(block);
    case "quote": return element("blockquote", {}, within(block.lines, depth));
    case "list": return list(block, depth);
    case "table": return table(block);
    default: return element("p", {}, inline(block.text));
  }
}

function within(lines, depth) {
  const text = lines.join("\n");
  return depth < DEEPEST ? split(text).map((block) => shown(block, depth + 1)) : [text];
}

function list(block, depth) {
  const items = block.items.map((lines) => {
    const children = within(lines, depth);
    const isShort = children[0]?.tagName === "P" && children.filter((child) => child.tagName === "P").length === 1;
    return element("li", {}, isShort ? [...children[0].childNodes, ...children.slice(1)] : children);
  });
  return block.isOrdered ? element("ol", { start: block.start }, items) : element("ul", {}, items);
}

function codeBlock({ language, code }) {
  const head = element("div", { class: "code-head" }, element("span", {}, language), copyButton(() => code));
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, element("code", {}, code)));
}

function table({ head, rows }) {
  const row = (tag, texts) => element("tr", {}, texts.map((text) => element(tag, {}, inline(text))));
  const body = element("tbody", {}, rows.map((texts) => row("td", texts.slice(0, head.length))));
  return element("div", { class: "wide", tabindex: "0" }, element("table", {}, element("thead", {}, row("th", head)), body));
}

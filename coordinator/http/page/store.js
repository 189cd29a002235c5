// SPDX-License-Identifier: MIT
// What this browser keeps: conversations, settings, perhaps a key. Where storage is forbidden, it lasts as long as the page.

const PREFIX = "caravan.";
const memory = new Map();

export const DEFAULT_TITLE = "New conversation";
const TITLE_CHARACTERS = 48;

/** What is kept under a name, or `otherwise`. */
export function read(name, otherwise) {
  try {
    const text = localStorage.getItem(PREFIX + name) ?? memory.get(name) ?? null;
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return memory.has(name) ? JSON.parse(memory.get(name)) : otherwise;
  }
}

/** Keeps it; whether it will be there the next time. */
export function write(name, value) {
  const text = JSON.stringify(value);
  try {
    localStorage.setItem(PREFIX + name, text);
    memory.delete(name);
    return true;
  } catch {
    memory.set(name, text);
    return false;
  }
}

export function remove(name) {
  memory.delete(name);
  try {
    localStorage.removeItem(PREFIX + name);
  } catch {
    // It was not there either.
  }
}

/** All conversations, the latest first: {id, title, changed, model}; the model is the one that was chosen for it, if any. */
export function conversations() {
  return read("conversations", []).sort((one, other) => other.changed - one.changed);
}

/** One with its messages, {role, content, ...}; an empty one if it is not there. */
export function conversation(id) {
  const entry = conversations().find((each) => each.id === id);
  return { id, title: entry?.title ?? DEFAULT_TITLE, model: entry?.model, messages: read(`conversation.${id}`, []) };
}

/** A fresh one, which is kept once there is something in it. */
export function begin() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: DEFAULT_TITLE, messages: [] };
}

/** Keeps a conversation; whether it will be there the next time. */
export function save(kept) {
  const first = kept.messages.find((message) => message.role === "user");
  if (kept.title === DEFAULT_TITLE && first) kept.title = titleOf(first.content);
  const others = conversations().filter((each) => each.id !== kept.id);
  const listed = write("conversations", [{ id: kept.id, title: kept.title, model: kept.model, changed: Date.now() }, ...others]);
  return write(`conversation.${kept.id}`, kept.messages) && listed;
}

export function rename(id, title) {
  write("conversations", conversations().map((each) => (each.id === id ? { ...each, title } : each)));
}

export function forget(id) {
  write("conversations", conversations().filter((each) => each.id !== id));
  remove(`conversation.${id}`);
}

function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > TITLE_CHARACTERS ? `${line.slice(0, TITLE_CHARACTERS - 1).trimEnd()}…` : line || DEFAULT_TITLE;
}

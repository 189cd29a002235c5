// SPDX-License-Identifier: MIT
// How answers are to be sampled: a dialog, and the request that follows from it. Kept in the browser, for all conversations.

import { announce, byId } from "./dom.js";
import { key } from "./server.js";
import { read, write } from "./store.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** The body of a request for the answer to these messages; `model` is a name, or null where there is only one. */
export function request(messages, model) {
  const settings = read("settings", {});
  const body = model === null ? {} : { model };
  for (const name of NUMBERS) {
    if (typeof settings[name] === "number") body[name] = settings[name];
  }
  const said = messages.filter((message) => message.role === "user" || message.content)
    .map(({ role, content }) => ({ role, content }));
  body.messages = settings.system ? [{ role: "system", content: settings.system }, ...said] : said;
  return body;
}

/** Makes the dialog work. */
export function prepareSettings() {
  const dialog = byId("settings");
  const form = dialog.querySelector("form");
  byId("open-settings").addEventListener("click", () => {
    const settings = read("settings", {});
    for (const name of [...NUMBERS, "system"]) form.elements[name].value = settings[name] ?? "";
    byId("key-kept").hidden = !key.value;
    dialog.showModal();
  });
  byId("close-settings").addEventListener("click", () => dialog.close());
  byId("forget-key").addEventListener("click", () => {
    key.forget();
    byId("key-kept").hidden = true;
    announce("The key is forgotten.");
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const settings = { system: form.elements.system.value.trim() };
    for (const name of NUMBERS) {
      const text = form.elements[name].value;
      if (text !== "") settings[name] = Number(text);
    }
    write("settings", settings);
    dialog.close();
  });
}

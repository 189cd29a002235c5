// SPDX-License-Identifier: MIT
// What stands in the chat's place where a model makes embeddings, and no text.

import { copyButton, element } from "./dom.js";
import { key } from "./server.js";

/** What the model is for, and how it is asked. */
export function embeddingsOf(model) {
  const command = [
    `curl ${new URL("v1/embeddings", document.baseURI).href}`,
    "-H 'Content-Type: application/json'",
    ...(key.value ? ["-H 'Authorization: Bearer YOUR_KEY'"] : []),
    `-d '${JSON.stringify({ model: model.id, input: ["a llama", "a lantern"] })}'`,
  ].join(" \\\n  ");
  return [
    element("h2", {}, `${model.id} makes embeddings`),
    element("p", { class: "quiet" }, "It turns texts into vectors, for search and comparison, and writes none itself:"
      + " so there is no chat with it. Programs ask it like this, or with any client of OpenAI's:"),
    element("div", { class: "code" },
      element("div", { class: "code-head" }, element("span", {}, "sh"), copyButton(() => command)),
      element("pre", { tabindex: "0", "aria-label": "Command" }, element("code", {}, command))),
  ];
}

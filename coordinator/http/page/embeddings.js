// SPDX-License-Identifier: MIT
// What stands in the chat's place where a model makes embeddings, or ranks documents, and writes no text.

import { copyButton, element } from "./dom.js";
import { key } from "./server.js";

const EMBEDDING = {
  heading: "makes embeddings",
  route: "v1/embeddings",
  asked: { input: ["a llama", "a lantern"] },
  purpose: "It turns texts into vectors, for search and comparison, and writes none itself: so there is no chat with it."
    + " Programs ask it like this, or with any client of OpenAI's:",
};
const RANKING = {
  heading: "ranks documents",
  route: "v1/rerank",
  asked: { query: "What is a llama?", documents: ["A lantern gives light.", "A llama is an animal."] },
  purpose: "It says how well documents answer a query, and writes nothing itself: so there is no chat with it. Programs ask"
    + " it like this, or with any client of Jina's API:",
};

/** What the model is for, and how it is asked. */
export function embeddingsOf(model) {
  const { heading, route, asked, purpose } = model.ranks ? RANKING : EMBEDDING;
  const command = [
    `curl ${new URL(route, document.baseURI).href}`,
    "-H 'Content-Type: application/json'",
    ...(key.value ? ["-H 'Authorization: Bearer YOUR_KEY'"] : []),
    `-d '${JSON.stringify({ model: model.id, ...asked })}'`,
  ].join(" \\\n  ");
  return [
    element("h2", {}, `${model.id} ${heading}`),
    element("p", { class: "quiet" }, purpose),
    element("div", { class: "code" },
      element("div", { class: "code-head" }, element("span", {}, "sh"), copyButton(() => command)),
      element("pre", { tabindex: "0", "aria-label": "Command" }, element("code", {}, command))),
  ];
}

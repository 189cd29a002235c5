// SPDX-License-Identifier: MIT
// The models that the server has, and the choice among them where there are several. What a server does not tell (one of
// before Caravan had several) is taken to be so: loaded, and made for text.

import { byId, element } from "./dom.js";
import { share } from "./figures.js";
import { read, write } from "./store.js";

const WORDS = { unloaded: "not loaded", loading: "loading" };

/** A model is {id, state, error, writes, ranks, load}: state "loaded", "loading" or "unloaded", error a text or null, load how far
 *  it is or null. Tells "change" when there are others, or one of them is in another state, and "choose" with a model that somebody chose. */
export class Models extends EventTarget {
  constructor() {
    super();
    this.#picker.addEventListener("change", () => {
      write("model", this.#picker.value);
      this.dispatchEvent(new CustomEvent("choose", { detail: this.#picker.value }));
    });
  }

  #picker = byId("pick");
  #all = [];
  #told = "";

  get areSeveral() {
    return this.#all.length > 1;
  }

  /** What GET /v1/models told, and of models that are being loaded GET /health. */
  note(data, loads) {
    const all = data.map((each) => ({
      id: each.id,
      state: each.status?.value ?? "loaded",
      error: each.status?.failed ? each.status.message ?? "it could not be loaded" : null,
      writes: each.architecture?.output_modalities?.includes("text") ?? true,
      ranks: each.architecture?.output_modalities?.includes("rerank") ?? false,
      load: loads.find((load) => load.id === each.id && load.fraction !== undefined) ?? null,
    }));
    const told = JSON.stringify(all);
    if (told === this.#told) return;
    this.#told = told;
    this.#all = all;
    this.#showAll();
    this.dispatchEvent(new Event("change"));
  }

  #showAll() {
    const names = this.#all.map(named);
    const shown = Array.from(this.#picker.options, (option) => option.textContent);
    if (names.join("\n") !== shown.join("\n")) {
      this.#picker.replaceChildren(...this.#all.map(({ id }, number) => element("option", { value: id }, names[number])));
    }
    this.#picker.hidden = !this.areSeveral;
  }

  /** The model that a conversation is with: its own, the one chosen last, one that is loaded, any; null: none is known. */
  of(conversation) {
    const byName = (id) => this.#all.find((model) => model.id === id);
    const writers = this.#all.filter((model) => model.writes);
    return byName(conversation.model) ?? byName(read("model", null))
      ?? writers.find((model) => model.state === "loaded") ?? writers[0] ?? this.#all[0] ?? null;
  }

  /** Shows it as the one that is chosen. */
  show(model) {
    this.#picker.value = model?.id ?? "";
  }
}

/** How far a model is that is not loaded yet, in words; null: it is loaded, or not known. */
export function loadOf(model) {
  if (model === null || model.state === "loaded") return null;
  return model.load ? `${model.id} is loading: ${share(model.load.fraction)}` : `${model.id} is loading`;
}

/** What is to be known before it is asked; may be empty. */
export function noteOn(model, hasMessages) {
  if (!model.writes) return hasMessages ? `${model.id} ${model.ranks ? "ranks documents" : "makes embeddings"} and writes no text.` : "";
  if (model.error) return `${model.id} is not loaded, as that failed the last time: ${model.error}`;
  if (model.state === "unloaded") return `${model.id} is not loaded: the first answer takes as long as loading does.`;
  return model.state === "loading" ? `${loadOf(model)}.` : "";
}

function named({ id, state, writes, ranks }) {
  const kind = writes ? "" : ranks ? "reranker" : "embeddings";
  const about = [state === "loaded" ? "" : WORDS[state] ?? state, kind].filter(Boolean).join(", ");
  return about ? `${id} (${about})` : id;
}

// SPDX-License-Identifier: MIT
// The plan: who holds what and why, what it was to do, and what else there could be. Asked for when it is opened.

import { element } from "./dom.js";
import { capital, layers, range, rate, size, time } from "./figures.js";
import { askData, ofModel } from "./server.js";

export class PlanView {
  constructor() {
    this.#body = element("div");
    this.node = element("details", { class: "plan", toggle: () => this.#load() }, element("summary", {}, "The plan"), this.#body);
  }

  #body;
  #model = null;
  #mark = null;
  #shown = null;

  /** The line is this one now, of this model if there are several; if it is another than the plan is of, that is asked for
   *  anew. */
  follow(model, mark) {
    this.#model = model;
    this.#mark = mark;
    if (this.node.open) this.#load();
  }

  async #load() {
    if (!this.node.open || this.#shown === this.#mark) return;
    this.#shown = this.#mark;
    try {
      const { plans } = await askData(ofModel("plan", this.#model));
      this.#body.replaceChildren(...plans.flatMap(plan));
    } catch (error) {
      this.#shown = null;
      this.#body.replaceChildren(element("p", { class: "error" }, error.message));
    }
  }
}

function plan(data) {
  const sentences = [data.basis, data.headline].filter(Boolean).map((text) => element("p", {}, capital(text)));
  const about = `${data.model}: ${data.n_layer} layers, ${data.n_sequences} sequences of ${data.n_ctx} tokens.`;
  const notes = data.notes.map((note) => element("li", {}, note));
  return [
    ...sentences, element("p", {}, about), table(data),
    data.prediction && element("p", {}, `Predicted: ${speeds(data.prediction)}.`),
    data.alternatives.length > 0 && element("h4", {}, "Alternatives"),
    data.alternatives.length > 0 && element("ul", {}, data.alternatives.map(alternative)),
    notes.length > 0 && element("h4", {}, "To be known"),
    notes.length > 0 && element("ul", {}, notes),
  ].filter(Boolean);
}

function table({ stages, prediction }) {
  const heads = ["worker", "layers", "weights", "KV cache", "compute", ...(prediction ? ["a token"] : [])];
  const rows = stages.map((stage, number) => [
    `${stage.worker} (${stage.device})`, range(stage), size(stage.weights_bytes),
    size(stage.kv_bytes), size(stage.compute_bytes), ...(prediction ? [time(prediction.stage_s[number])] : []),
  ]);
  const row = (tag, cells) => element("tr", {}, cells.map((cell) => element(tag, {}, cell)));
  const body = element("tbody", {}, rows.map((cells) => row("td", cells)));
  return element("div", { class: "wide", tabindex: "0" }, element("table", {}, element("thead", {}, row("th", heads)), body));
}

function alternative({ label, weights_bytes: bytes, stages, prediction }) {
  const laid = stages.map((stage) => `${stage.worker} ${layers(stage)}`).join(", ");
  return element("li", {}, `${label}${bytes ? `, ${size(bytes)}` : ""} (${laid}): ${speeds(prediction)}`);
}

function speeds(prediction) {
  const parts = [`${rate(prediction.tokens_per_s)} tokens per second for one stream`];
  if (prediction.parallel > 1) parts.push(`${rate(prediction.parallel_tokens_per_s)} for ${prediction.parallel} together`);
  if (prediction.ttft_s !== null) parts.push(`first token of a long prompt after ${time(prediction.ttft_s)}`);
  return parts.join(", ");
}

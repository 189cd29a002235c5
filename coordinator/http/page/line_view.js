// SPDX-License-Identifier: MIT
// The live line: its machines, what limits it, its last frames, what happened, and the plan.

import { announce, element, put } from "./dom.js";
import { capital, count, layers, rate } from "./figures.js";
import { Machines } from "./machines.js";
import { PlanView } from "./plan_view.js";
import { Waterfall } from "./waterfall.js";

export class LineView {
  constructor(target) {
    this.#head = element("p", { class: "quiet" });
    this.#loading = element("div", { class: "loading", hidden: true });
    this.#lines = element("div");
    this.#events = element("ol", { class: "events" });
    this.#happened = section("What happened", this.#events);
    this.#happened.hidden = true;
    this.#plan = new PlanView();
    this.#plan.node.hidden = true;
    target.append(element("h2", {}, "Live line"), this.#head, this.#loading, this.#lines, this.#happened, this.#plan.node);
  }

  #head;
  #loading;
  #lines;
  #events;
  #happened;
  #plan;
  #parts = [];
  #toldEvent = null;
  #shownAt = null;
  #model = "";

  /** What `Poll` was told. */
  show({ health, model, status, lineError, error }) {
    if (health?.model) this.#model = model?.id ?? health.model;
    const isThere = (model?.state ?? "loaded") === "loaded";
    this.#showHead(health, status, error ?? lineError, isThere);
    this.#showLoading(health?.status === "loading" ? health : model?.load);
    this.#lines.hidden = this.#plan.node.hidden = !isThere || this.#parts.length === 0;
    if (error || lineError || (health && health.status !== "ready")) this.#lines.classList.add("old");
    if (!status) return;
    this.#lines.hidden = this.#plan.node.hidden = false;
    this.#lines.classList.remove("old");
    this.#shownAt = new Date();
    while (this.#parts.length > status.lines.length) this.#parts.pop().node.remove();
    while (this.#parts.length < status.lines.length) {
      const part = new OneLine();
      this.#parts.push(part);
      this.#lines.append(part.node);
    }
    const lost = status.events?.findLast((event) => event.change === "lost")?.worker ?? null;
    this.#parts.forEach((part, number) => part.show(status.lines[number], number, status.lines.length, lost));
    this.#showEvents(status.events ?? []);
    const marks = status.lines.map((line) => line.stages.map((stage) => [stage.worker, stage.layer_start]).join());
    this.#plan.follow(model?.id ?? null, [status.model, ...marks].join());
  }

  #showHead(health, status, error, isThere) {
    let text = this.#model;
    if (error) text = this.#shownAt ? `${error.message} What is below is of ${this.#shownAt.toLocaleTimeString()}.` : error.message;
    else if (health && health.model === undefined) text = "The line is shown to those who have an API key.";
    else if (!isThere) text = `${this.#model} is not loaded, so it has no line now.`;
    else if (status) text = `${status.model}, by the last ${status.window_s} seconds`;
    put(this.#head, text);
    this.#head.classList.toggle("error", Boolean(error));
  }

  #showLoading(told) {
    this.#loading.hidden = !told;
    if (!told) return;
    const bars = (told.loads ?? []).map((load) => element("div", {},
      element("p", {}, `${load.worker}, ${layers(load)}`),
      element("progress", { max: "1", value: load.fraction, "aria-label": `${load.worker} has loaded` })));
    const doing = bars.length === 0 && told.doing ? capital(told.doing) : "The model is loading.";
    this.#loading.replaceChildren(element("p", {}, doing), ...bars);
  }

  #showEvents(events) {
    this.#happened.hidden = events.length === 0;
    const last = events.at(-1);
    const mark = last === undefined ? null : `${last.at_s} ${last.message}`;
    if (mark === this.#toldEvent) return;
    if (this.#toldEvent !== null && last !== undefined) announce(last.message);
    this.#toldEvent = mark ?? "";
    this.#events.replaceChildren(...events.toReversed().map((event) => {
      const at = new Date(event.at_s * 1000);
      return element("li", { class: event.change.replaceAll(" ", "-") },
        element("time", { datetime: at.toISOString(), title: at.toLocaleString() }, at.toLocaleTimeString()),
        element("p", {}, capital(event.message)));
    }));
  }
}

/** One line of the mesh; there are several where there are replicas. */
class OneLine {
  constructor() {
    this.#title = element("h3");
    this.#broken = element("p", { class: "laying", hidden: true }, "A worker was lost: the line is being laid again.");
    this.#figures = element("dl", { class: "figures" });
    this.#machines = new Machines();
    this.#limit = element("p", { class: "limit" });
    this.#offer = element("p", { class: "offer", hidden: true });
    this.#waterfall = new Waterfall();
    this.node = element("div", {}, this.#title, this.#broken, this.#figures, this.#machines.node,
      section("What limits the speed", this.#limit, this.#offer), section("The last frames", this.#waterfall.node));
  }

  #title;
  #broken;
  #figures;
  #machines;
  #limit;
  #offer;
  #waterfall;

  show(line, number, nLines, lost) {
    this.#title.classList.toggle("unseen", nLines === 1);
    put(this.#title, nLines === 1 ? "Machines" : `Line ${number + 1} of ${nLines}`);
    this.#broken.hidden = !line.is_suspended;
    this.#showFigures(line);
    this.#machines.show(line, line.is_suspended ? lost : null);
    put(this.#limit, line.limit.sentence);
    this.#showOffer(line.limit.rebalanced);
    this.#waterfall.show(line);
  }

  #showFigures(line) {
    const share = line.n_prompt_tokens ? Math.round((100 * line.n_reused_tokens) / line.n_prompt_tokens) : 0;
    const figures = [
      ["written", `${rate(line.generated_per_s)} tokens/s`],
      ["read", `${rate(line.prompt_tokens_per_s)} tokens/s`],
      ["requests", `${line.n_running} of ${line.n_slots}`],
      ["waiting", count(line.n_waiting)],
      ["frames under way", count(line.n_in_flight)],
      ["read from cache", `${share} %`],
    ];
    this.#figures.replaceChildren(...figures.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  #showOffer(rebalanced) {
    this.#offer.hidden = !rebalanced;
    if (!rebalanced) return;
    const ranges = rebalanced.stages.map((stage) => `${stage.worker} ${layers(stage)}`).join(", ");
    const gain = `About ${rebalanced.gain.toFixed(2)} times as fast would be: `;
    this.#offer.replaceChildren(gain, rebalanced.option ? element("code", {}, rebalanced.option) : ranges);
  }
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

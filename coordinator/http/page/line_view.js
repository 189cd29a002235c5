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
  #model = "";

  /** What `Poll` was told. */
  show({ health, status, lineError, error }) {
    if (health?.model) this.#model = health.model;
    this.#showHead(health, status, error ?? lineError);
    this.#showLoading(health);
    if (error || lineError || (health && health.status !== "ready")) this.#lines.classList.add("old");
    if (!status) return;
    this.#plan.node.hidden = false;
    this.#lines.classList.remove("old");
    while (this.#parts.length > status.lines.length) this.#parts.pop().node.remove();
    while (this.#parts.length < status.lines.length) {
      const part = new OneLine();
      this.#parts.push(part);
      this.#lines.append(part.node);
    }
    const lost = status.events?.findLast((event) => event.change === "lost")?.worker ?? null;
    this.#parts.forEach((part, number) => part.show(status.lines[number], number, status.lines.length, lost));
    this.#showEvents(status.events ?? []);
    this.#plan.follow(status.lines.map((line) => line.stages.map((stage) => [stage.worker, stage.layer_start]).join()).join());
  }

  #showHead(health, status, error) {
    let text = this.#model;
    if (error) text = error.message;
    else if (health && health.model === undefined) text = "The line is shown to those who have an API key.";
    else if (status) text = `${status.model}, by the last ${status.window_s} seconds`;
    put(this.#head, text);
    this.#head.classList.toggle("error", Boolean(error));
  }

  #showLoading(health) {
    this.#loading.hidden = health?.status !== "loading";
    if (this.#loading.hidden) return;
    const bars = (health.loads ?? []).map((load) => element("div", {},
      element("p", {}, `${load.worker}, ${layers(load)}`),
      element("progress", { max: "1", value: load.fraction, "aria-label": `${load.worker} has loaded` })));
    const doing = bars.length === 0 && health.doing ? capital(health.doing) : "The model is loading.";
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
    this.#title = element("h3", { hidden: true });
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
    this.#title.hidden = nLines === 1;
    this.#title.textContent = `Line ${number + 1} of ${nLines}`;
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
      ["generated", `${rate(line.generated_per_s)} tokens/s`],
      ["requests", `${line.n_running} of ${line.n_slots} slots, ${line.n_waiting}\u00a0waiting`],
      ["frames under way", count(line.n_in_flight)],
      ["prompts from cache", `${share} %`],
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

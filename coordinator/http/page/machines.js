// SPDX-License-Identifier: MIT
// The machines of a line, in its order, with what goes on in each, and tokens walking from one to the next.

import { element, put } from "./dom.js";
import { layers, rate, share, size, time } from "./figures.js";

const HOP_S = 1.6; // for a point to walk over a hop when there is one frame a second; quicker with more, up to a bound
const QUICKEST_S = 0.5;

export class Machines {
  constructor() {
    this.node = element("ol", { class: "machines", "aria-label": "Machines, in the order of the line" });
  }

  #machines = [];

  /** @param lost Name of the worker that the line broke at; null: none, or it is laid again. */
  show(line, lost) {
    const names = line.stages.map((stage) => stage.worker).join("\n");
    if (this.node.dataset.names !== names) {
      this.node.dataset.names = names;
      this.#machines = line.stages.map((stage, number) => new Machine(stage, number));
      this.node.replaceChildren(...this.#machines.map((machine) => machine.node));
    }
    const frames = line.decode.frames_per_s + line.prefill.frames_per_s;
    const flows = frames > 0 && line.n_running > 0 && !line.is_suspended;
    this.node.classList.toggle("flows", flows);
    this.node.classList.toggle("broken", line.is_suspended);
    if (flows) this.node.style.setProperty("--hop", `${Math.max(QUICKEST_S, HOP_S / Math.max(1, Math.sqrt(frames))).toFixed(1)}s`);
    this.#machines.forEach((machine, number) => machine.show(line.stages[number], line.stages[number].worker === lost));
  }
}

class Machine {
  constructor(stage, number) {
    this.#lost = element("p", { class: "small error", hidden: true });
    this.#layers = element("p", { class: "layers" });
    this.#time = new Meter("Time", ["busy", "waiting", "idle"]);
    this.#memory = new Meter("Memory", ["own", "others", "free"]);
    this.#more = element("p", { class: "small figures-in-a-row more" });
    const about = stage.device || "";
    this.node = element("li", { class: `machine hue-${number % 6}` },
      element("span", { class: "hop", "aria-hidden": "true" }),
      element("h4", { title: [stage.worker, stage.host, about].filter(Boolean).join(", ") }, stage.worker),
      this.#lost, this.#layers, this.#time.node, this.#memory.node, this.#more);
  }

  #lost;
  #layers;
  #time;
  #memory;
  #more;

  show(stage, isLost) {
    this.node.classList.toggle("lost", isLost);
    putOrHide(this.#lost, isLost ? "does not answer" : "");
    const now = stage.device_now;
    putOrHide(this.#layers, [layers(stage), now?.description || stage.device].filter(Boolean).join(" · "));
    this.#time.show([stage.busy_share, stage.waiting_share, stage.idle_share], `${share(stage.busy_share)} busy`,
      [`${share(stage.waiting_share)} waiting`, `${share(stage.idle_share)} idle`]);
    this.#showMemory(stage, now);
    this.#more.replaceChildren(...inARow(this.#figures(stage, now)));
  }

  #showMemory(stage, now) {
    const own = stage.weights_bytes + stage.kv_bytes + stage.compute_bytes;
    const total = now?.total_bytes ?? 0;
    this.#memory.node.hidden = !total && !own;
    if (!total) {
      this.#memory.show(null, size(own), ["its layers"]);
      return;
    }
    const taken = Math.max(own, total - now.free_bytes);
    const parts = [own, taken - own, total - taken].map((bytes) => Math.max(0, bytes) / total);
    this.#memory.show(parts, `${size(now.free_bytes)} free`, [`of ${size(total)}`, `${size(own)} its layers`]);
  }

  #figures(stage, now) {
    const parts = [];
    if (stage.decode_frame_s) parts.push(`${time(stage.decode_frame_s)}\u00a0a\u00a0token`);
    for (const card of now?.cards ?? []) {
      if (card.temperature_c !== null) parts.push(`${Math.round(card.temperature_c)}\u00a0°C`);
      if (card.utilisation !== null) parts.push(`${share(card.utilisation)}\u00a0load`);
      if (card.power_w !== null) parts.push(`${Math.round(card.power_w)}\u00a0W`);
    }
    if (stage.n_queued >= 0.05) parts.push(`${rate(stage.n_queued)} frames queued`);
    return parts;
  }
}

/** A bar of parts that share a whole, with a name above it; what it says is in words about it. */
class Meter {
  constructor(name, kinds) {
    this.#parts = kinds.map((kind) => element("span", { class: kind }));
    this.#bar = element("div", { class: "bar", "aria-hidden": "true" }, this.#parts);
    this.#value = element("span", { class: "value" });
    this.#detail = element("p", { class: "small figures-in-a-row" });
    this.node = element("div", { class: "meter" }, element("p", {}, element("span", {}, name), " ", this.#value), this.#bar, this.#detail);
  }

  #parts;
  #bar;
  #value;
  #detail;
  #shown = "";

  /** @param shares Of the parts; null: they are not known.
   *  @param detail Texts that go beneath. */
  show(shares, value, detail) {
    this.#bar.hidden = shares === null;
    this.#parts.forEach((part, number) => { part.style.flexGrow = Math.max(0, shares?.[number] ?? 0).toFixed(4); });
    put(this.#value, value);
    if (this.#shown === detail.join()) return;
    this.#shown = detail.join();
    this.#detail.replaceChildren(...inARow(detail));
  }
}

/** Texts of which each stays on one line; read out with commas between them. */
function inARow(texts) {
  return texts.map((text, number) => element("span", {}, text, number < texts.length - 1 ? element("span", { class: "unseen" }, ", ") : ""));
}

function putOrHide(node, text) {
  put(node, text);
  node.hidden = !text;
}

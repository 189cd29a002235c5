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
    this.#shares = bar(["busy", "waiting", "idle"]);
    this.#sharesText = element("p", { class: "small" });
    this.#memory = bar(["own", "others", "free"]);
    this.#memoryText = element("p", { class: "small" });
    this.#more = element("p", { class: "small more" });
    const about = stage.device || "";
    this.node = element("li", { class: `machine hue-${number % 6}` },
      element("span", { class: "hop", "aria-hidden": "true" }),
      element("h4", { title: [stage.worker, stage.host, about].filter(Boolean).join(", ") }, stage.worker),
      this.#lost, this.#layers, this.#shares.node, this.#sharesText, this.#memory.node, this.#memoryText, this.#more);
  }

  #lost;
  #layers;
  #shares;
  #sharesText;
  #memory;
  #memoryText;
  #more;

  show(stage, isLost) {
    this.node.classList.toggle("lost", isLost);
    putOrHide(this.#lost, isLost ? "does not answer" : "");
    const now = stage.device_now;
    putOrHide(this.#layers, [layers(stage), now?.description || stage.device].filter(Boolean).join(" · "));
    this.#shares.set([stage.busy_share, stage.waiting_share, stage.idle_share]);
    putOrHide(this.#sharesText, `${share(stage.busy_share)} busy, ${share(stage.waiting_share)} waiting, ${share(stage.idle_share)} idle`);
    this.#showMemory(stage, now);
    this.#more.replaceChildren(...this.#figures(stage, now).map((text) => element("span", {}, text)));
  }

  #showMemory(stage, now) {
    const own = stage.weights_bytes + stage.kv_bytes + stage.compute_bytes;
    this.#memory.node.hidden = !now?.total_bytes;
    if (!now?.total_bytes) {
      putOrHide(this.#memoryText, own ? `${size(own)} for its layers` : "");
      return;
    }
    const taken = Math.max(own, now.total_bytes - now.free_bytes);
    this.#memory.set([own, taken - own, now.total_bytes - taken].map((bytes) => Math.max(0, bytes) / now.total_bytes));
    putOrHide(this.#memoryText, `${size(own)} for its layers, ${size(now.free_bytes)} of ${size(now.total_bytes)} free`);
  }

  #figures(stage, now) {
    const parts = [];
    for (const card of now?.cards ?? []) {
      if (card.temperature_c !== null) parts.push(`${Math.round(card.temperature_c)}\u00a0°C`);
      if (card.utilisation !== null) parts.push(`${share(card.utilisation)}\u00a0load`);
      if (card.power_w !== null) parts.push(`${Math.round(card.power_w)}\u00a0W`);
    }
    if (stage.decode_frame_s) parts.push(`${time(stage.decode_frame_s)}\u00a0a\u00a0token`);
    if (stage.n_queued >= 0.05) parts.push(`${rate(stage.n_queued)} frames queued`);
    return parts;
  }
}

/** A bar of parts that share a whole; what it says is in words beneath it. */
function bar(kinds) {
  const parts = kinds.map((kind) => element("span", { class: kind }));
  return {
    node: element("div", { class: "bar", "aria-hidden": "true" }, parts),
    set(shares) {
      parts.forEach((part, number) => { part.style.flexGrow = Math.max(0, shares[number]).toFixed(4); });
    },
  };
}

function putOrHide(node, text) {
  put(node, text);
  node.hidden = !text;
}

// SPDX-License-Identifier: MIT
// The last frames as a waterfall: a row each, time from left to right, the same for all; what each did where.

import { drawn, element } from "./dom.js";
import { time } from "./figures.js";

const ROWS = 20;
const ROW = 9;
const GAP = 2;
const WIDTH = 1000; // of the drawing's own units; it is stretched to the room that there is
const PAUSE_S = 1; // with nothing in the line: what was before that is another story, and would squeeze this one
const LEAST = 3; // of a span that took no time to speak of

export class Waterfall {
  constructor() {
    this.#drawing = drawn("svg", { class: "waterfall", preserveAspectRatio: "none", role: "img" });
    this.#scale = element("p", { class: "small" });
    this.#legend = element("p", { class: "legend small", "aria-hidden": "true" });
    this.#none = element("p", { class: "quiet" }, "No frame has come back yet.");
    this.node = element("div", {}, this.#none, this.#drawing, this.#scale, this.#legend);
  }

  #drawing;
  #scale;
  #legend;
  #none;
  #shown = "";

  show(line) {
    const frames = sinceLastPause(line.frames.slice(-ROWS));
    this.#none.hidden = frames.length > 0;
    for (const part of [this.#scale, this.#legend]) part.hidden = frames.length === 0;
    this.#drawing.classList.toggle("empty", frames.length === 0);
    const mark = `${frames[0]?.number} ${frames.at(-1)?.number} ${line.stages.length}`;
    if (frames.length === 0 || mark === this.#shown) return;
    this.#shown = mark;
    const startS = frames[0].sent_s;
    const lengthS = Math.max(1e-6, Math.max(...frames.map((frame) => frame.received_s)) - startS);
    const x = (seconds) => ((seconds - startS) / lengthS) * WIDTH;
    this.#drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${frames.length * (ROW + GAP)}`);
    this.#drawing.style.height = `${frames.length * (ROW + GAP)}px`;
    const about = `${frames.length === 1 ? "1 frame" : `${frames.length} frames`}, ${time(lengthS)} from left to right`;
    this.#drawing.setAttribute("aria-label", about);
    this.#drawing.replaceChildren(...frames.flatMap((frame, row) => spans(frame, row, x, line.stages)));
    this.#scale.textContent = about;
    this.#showLegend(line.stages);
  }

  #showLegend(stages) {
    const computing = stages.map((stage, number) => key(`computing hue-${number % 6}`, `${stage.worker} computes`));
    const others = [key("hop", "hop"), key("waiting", "waits for a worker"), key("held", "held back there")];
    this.#legend.replaceChildren(...computing, ...others);
  }
}

/** The frames, oldest first, without those from before the line had nothing to do. */
function sinceLastPause(frames) {
  let receivedS = -Infinity;
  let first = 0;
  frames.forEach((frame, number) => {
    if (frame.sent_s > receivedS + PAUSE_S) first = number;
    receivedS = Math.max(receivedS, frame.received_s);
  });
  return frames.slice(first);
}

function spans(frame, row, x, stages) {
  const y = row * (ROW + GAP);
  return frame.spans.map((span) => {
    const isComputing = span.kind === "computing";
    const height = isComputing ? ROW : span.kind === "waiting" ? 4 : 2;
    const width = Math.max(isComputing ? LEAST : 0, x(span.end_s) - x(span.start_s));
    const kind = isComputing ? `computing hue-${span.stage % 6}` : span.kind;
    const who = stages[span.stage]?.worker ?? "the coordinator";
    const work = frame.n_tokens ? `${frame.is_decode ? "decode" : "prompt"}, ${frame.n_tokens} tokens` : "void";
    const what = `${work}: ${span.kind} ${isComputing ? "on" : "at"} ${who}, ${time(span.end_s - span.start_s)}`;
    return drawn("rect", { class: kind, x: x(span.start_s).toFixed(1), y: y + (ROW - height) / 2, width: width.toFixed(1), height },
      drawn("title", {}, what));
  });
}

function key(kind, text) {
  return element("span", {}, element("i", { class: kind }), text);
}

// SPDX-License-Identifier: MIT
// One message as it is shown, with what can be done with it.

import { Phase } from "./answering.js";
import { copyButton, element, icon } from "./dom.js";
import { lay } from "./markdown.js";

/** @param actions {edit, again}: functions, those that can be done with this message. */
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.#thoughts = element("p");
    this.#thinking = element("details", { class: "thoughts" }, element("summary", {}, "Thoughts"), this.#thoughts);
    this.#text = element("div", { class: "text" });
    this.#state = element("p", { class: "state" });
    this.#foot = element("div", { class: "doings" });
    const name = message.role === "user" ? "You" : "Model";
    const said = element("h2", { class: "unseen" }, name);
    this.node = element("li", { class: `message ${message.role}` }, said, this.#thinking, this.#text, this.#state, this.#foot);
    this.show(actions, null);
  }

  #thoughts;
  #thinking;
  #text;
  #state;
  #foot;
  #shownDoings = "";

  /** Shows it as it is now; `answering` while it is on its way. */
  show(actions, answering) {
    if (this.message.role === "user") this.#text.textContent = this.message.content;
    else lay(this.#text, this.message.content);
    this.#thinking.hidden = !this.message.thoughts;
    if (this.#thoughts.textContent !== (this.message.thoughts ?? "")) this.#thoughts.textContent = this.message.thoughts;
    const isWriting = answering !== null && answering.phase !== Phase.DONE;
    this.node.classList.toggle("writing", isWriting);
    this.node.toggleAttribute("aria-busy", isWriting);
    this.#showState(isWriting ? answering : null);
    const doings = isWriting ? {} : { ...actions, copy: Boolean(this.message.content) };
    const told = [...Object.keys(doings).filter((each) => doings[each]), isWriting, this.message.error, this.note].join();
    if (told !== this.#shownDoings) {
      this.#shownDoings = told;
      this.#foot.replaceChildren(...this.#doings(doings));
    }
  }

  #showState(answering) {
    const error = this.message.error;
    const text = error ?? (answering ? doing(answering) : "");
    this.#state.className = error ? "state error" : answering?.isLaying || answering?.away ? "state laying" : "state";
    if (this.#state.textContent !== text) this.#state.textContent = text;
    this.#state.hidden = !text;
  }

  #doings(doings) {
    const buttons = [];
    const add = (name, label, act) => {
      buttons.push(element("button", { type: "button", class: "plain small", click: act }, icon(name), label));
    };
    if (doings.copy) buttons.push(copyButton(() => this.message.content));
    if (doings.edit) add("pencil", "Edit", doings.edit);
    if (doings.again) add("again", this.message.error ? "Try again" : "Again", doings.again);
    const group = element("div", { class: "group" }, buttons);
    const isWriting = this.node.classList.contains("writing");
    return this.note && !isWriting ? [element("span", { class: "note" }, this.note), group] : [group];
  }

  /** What is to be said of an answer that has ended: its length and speed, and what became of it. */
  get note() {
    const { model, n_tokens: n, speed, cut, stopped, pauses, absences, isOpen } = this.message;
    const parts = model ? [model] : [];
    if (n) parts.push(`${n} token${n === 1 ? "" : "s"}`);
    if (speed) parts.push(`${speed.toFixed(1)} tokens/s`);
    for (const pause of pauses ?? []) parts.push(`paused ${pause.toFixed(1)} s while the line was laid again`);
    for (const absence of absences ?? []) parts.push(`${absence.toFixed(1)} s without the server`);
    if (stopped) parts.push("stopped");
    if (isOpen) parts.push("unfinished: the page was left");
    if (cut) parts.push("cut off at the most tokens that it may have");
    return parts.join(" · ");
  }
}

/** What an answer waits for, in words. */
export function doing(answering) {
  if (answering.away === "loading") return "The server is back and loads the model. The answer goes on when it is ready.";
  if (answering.away) return "The connection to the server broke. The answer goes on by itself when the server is back.";
  if (answering.isLaying) return "A worker was lost: the line is being laid again. The answer goes on when it stands.";
  if (answering.load && answering.phase === Phase.WAITING) return `${answering.load}. The answer follows.`;
  if (answering.isLong) {
    return answering.phase === Phase.WAITING ? "Still waiting for the first token." : "No token for some seconds; still waiting.";
  }
  return answering.phase === Phase.WAITING ? "Reading…" : "";
}

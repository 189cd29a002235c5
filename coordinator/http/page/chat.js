// SPDX-License-Identifier: MIT
// The conversation on the screen: what is sent, what is answered, and what is done again.

import { Answering, Phase } from "./answering.js";
import { announce, byId, put } from "./dom.js";
import { embeddingsOf } from "./embeddings.js";
import { doing, MessageView } from "./message.js";
import { loadOf, noteOn } from "./models.js";
import { request } from "./settings.js";
import { begin, conversation, save } from "./store.js";

const NEAR_PX = 60; // of the end: then the view follows it
const HEARD_CHARACTERS = 600; // of an answer that screen readers are told at its end; the rest is on the page

export class Chat extends EventTarget {
  constructor(models) {
    super();
    this.#models = models;
    models.addEventListener("change", () => this.#showModel());
    models.addEventListener("choose", (event) => this.#choose(event.detail));
    byId("composer").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    byId("stop").addEventListener("click", () => this.stop());
    byId("text").addEventListener("keydown", (event) => this.#onKey(event));
    byId("text").addEventListener("input", grow);
    byId("scroll").addEventListener("scroll", () => { this.#follows = isAtEnd(); }, { passive: true });
    this.show(begin());
  }

  #models;
  #current;
  #shownModel = null;
  #views = [];
  #answering = new Map(); // by conversation: the answer that is on its way there
  #edited = null; // the number of the message that is being edited
  #follows = true;
  #isDue = false;

  get current() {
    return this.#current;
  }

  get isAnswering() {
    return this.#answering.has(this.#current.id);
  }

  /** Whether any conversation has an answer on its way. */
  get isBusy() {
    return this.#answering.size > 0;
  }

  open(id) {
    this.show(this.#answering.get(id)?.conversation ?? conversation(id));
  }

  /** Nothing more is wanted of a conversation. */
  drop(id) {
    this.#answering.get(id)?.answer.stop();
    this.#answering.delete(id);
    if (this.#current.id === id) this.show(begin());
  }

  /** A conversation has another name now. */
  noteTitle(id, title) {
    const kept = this.#answering.get(id)?.conversation;
    if (kept !== undefined) kept.title = title;
    if (this.#current.id === id) this.#current.title = title;
  }

  show(shown) {
    this.#current = shown;
    this.#edited = null;
    this.#follows = true;
    const last = shown.messages.at(-1);
    if (last?.underWay && !last.needsKey && !this.isAnswering) {
      this.#goOn();
      return;
    }
    this.#showModel();
    this.#lay();
    this.#tell();
  }

  stop() {
    this.#answering.get(this.#current.id)?.answer.stop();
  }

  /** Sends what was refused once more, now that there is a key. */
  retryRefused() {
    const last = this.#current.messages.at(-1);
    if (!last?.needsKey || this.isAnswering) return;
    if (last.underWay) this.#goOn();
    else this.#again();
  }

  #onKey(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "Escape" && this.#edited !== null) {
      event.stopPropagation();
      this.#endEdit();
    }
  }

  #send() {
    const text = byId("text").value.trim();
    if (!text || this.isAnswering || !this.#canChat) return;
    if (this.#edited !== null) this.#current.messages.length = this.#edited;
    this.#edited = null;
    byId("text").value = "";
    grow();
    this.#current.messages.push({ role: "user", content: text });
    this.#answer();
  }

  #again() {
    if (this.isAnswering) return;
    if (this.#current.messages.at(-1)?.role === "assistant") this.#current.messages.pop();
    this.#answer();
  }

  #edit(number) {
    this.#edited = number;
    const area = byId("text");
    area.value = this.#current.messages[number].content;
    this.#showNotice();
    grow();
    area.focus();
  }

  #endEdit() {
    this.#edited = null;
    byId("text").value = "";
    this.#showNotice();
    grow();
  }

  #answer() {
    const { messages } = this.#current;
    const message = { role: "assistant", content: "" };
    if (this.#models.areSeveral) this.#current.model = message.model = this.#models.of(this.#current).id;
    const answer = new Answering(message, request(messages, message.model ?? null));
    messages.push(message);
    this.#run(this.#current, answer);
  }

  /** With the last answer, which the page was left in the middle of. */
  #goOn() {
    this.#run(this.#current, new Answering(this.#current.messages.at(-1), null));
  }

  async #run(kept, answer) {
    const { message } = answer;
    this.#answering.set(kept.id, { conversation: kept, answer });
    this.#follows = true;
    this.#keep(kept);
    this.#showModel();
    this.#lay();
    this.#tell();
    let wasDelayed = false;
    answer.addEventListener("change", () => {
      const isDelayed = answer.isLaying || answer.away !== null;
      if (isDelayed && !wasDelayed) announce(doing(answer));
      wasDelayed = isDelayed;
      this.#drawSoon(kept);
    });
    announce("The model answers.");
    await answer.run();
    if (this.#answering.get(kept.id)?.answer !== answer) return; // the conversation was deleted
    this.#answering.delete(kept.id);
    this.#keep(kept);
    announce(message.error ?? `Answer: ${message.content.slice(0, HEARD_CHARACTERS)}`);
    if (this.#current.id === kept.id) this.#lay();
    this.#tell();
    if (message.needsKey) this.dispatchEvent(new Event("key"));
  }

  /** Keeps all conversations that are on their way; the page may be about to go. */
  keepAll() {
    for (const { conversation: kept } of this.#answering.values()) this.#keep(kept);
  }

  /** Whether the model makes text. */
  get #canChat() {
    return this.#models.of(this.#current)?.writes ?? true;
  }

  /** Another model is to answer from now on. */
  #choose(id) {
    this.#current.model = id;
    if (this.#current.messages.length > 0) this.#keep(this.#current);
    this.#showModel();
  }

  /** What follows from the model that this conversation is with, and from its state. */
  #showModel() {
    const model = this.#models.of(this.#current);
    const isOther = ["id", "writes", "ranks"].some((each) => model?.[each] !== this.#shownModel?.[each]);
    this.#shownModel = model;
    this.#models.show(model);
    for (const { conversation: kept, answer } of this.#answering.values()) {
      answer.load = loadOf(this.#models.of(kept));
      this.#drawSoon(kept);
    }
    this.#showNotice();
    if (!isOther) return;
    document.body.classList.toggle("no-text", !this.#canChat);
    byId("slogan").hidden = !this.#canChat;
    byId("embeddings").hidden = this.#canChat;
    byId("embeddings").replaceChildren(...(this.#canChat ? [] : embeddingsOf(model)));
    this.#lay();
  }

  #keep(kept) {
    this.isKept = save(kept);
    this.#showNotice();
  }

  #drawSoon(kept) {
    if (this.#isDue || this.#current.id !== kept.id) return;
    this.#isDue = true;
    const draw = () => {
      this.#isDue = false;
      const on = this.#answering.get(this.#current.id);
      if (on === undefined) return;
      this.#views.at(-1)?.show({}, on.answer);
      this.#scroll();
    };
    if (document.hidden) setTimeout(draw, 200);
    else requestAnimationFrame(draw);
  }

  #lay() {
    const { messages } = this.#current;
    const on = this.#answering.get(this.#current.id);
    const lastUser = messages.findLastIndex((message) => message.role === "user");
    const canChange = on === undefined && this.#canChat;
    this.#views = messages.map((message, number) => {
      const actions = {};
      if (canChange && number === lastUser) actions.edit = () => this.#edit(number);
      if (canChange && number === messages.length - 1) actions.again = () => this.#again();
      const view = new MessageView(message, actions);
      if (on?.answer.message === message) view.show(actions, on.answer);
      return view;
    });
    byId("messages").replaceChildren(...this.#views.map((view) => view.node));
    byId("empty").hidden = messages.length > 0;
    const isOn = on !== undefined && on.answer.phase !== Phase.DONE;
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = isOn;
    byId("stop").hidden = !isOn;
    if (hadFocus) byId(isOn ? "stop" : "text").focus();
    this.#showNotice();
    this.#scroll();
  }

  #showNotice() {
    const texts = [];
    if (this.#edited !== null) texts.push("You are editing your last message; Esc leaves it as it was.");
    if (this.isKept === false) texts.push("This browser keeps no more: conversations are lost with this tab. Delete some.");
    const model = this.#models.of(this.#current);
    if (model !== null && !this.isAnswering) texts.push(noteOn(model, this.#current.messages.length > 0));
    put(byId("notice"), texts.filter(Boolean).join(" "));
    byId("notice").hidden = !byId("notice").textContent;
  }

  #scroll() {
    if (this.#follows) byId("scroll").scrollTop = byId("scroll").scrollHeight;
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

function isAtEnd() {
  const { scrollTop, scrollHeight, clientHeight } = byId("scroll");
  return scrollHeight - scrollTop - clientHeight < NEAR_PX;
}

/** The text area is as high as its text, up to what the style sheet allows. */
function grow() {
  const area = byId("text");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

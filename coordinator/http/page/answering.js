// SPDX-License-Identifier: MIT
// One answer on its way: asks, takes the pieces, notes its times and pauses. Tells whoever shows it with "change".

import { ask, chat, ServerError } from "./server.js";

const QUIET_MS = 700; // without a token, until the line is asked what it does
const LONG_MS = 5000; // without a token, until that is said
const LOOK_MS = 400;

export const Phase = Object.freeze({ WAITING: "waiting", WRITING: "writing", DONE: "done" });

export class Answering extends EventTarget {
  /** @param message The assistant's, filled as it comes: {content, note?, error?}.
   *  @param body Of the request, with the messages before it. */
  constructor(message, body) {
    super();
    this.message = message;
    this.phase = Phase.WAITING;
    this.isLaying = false; // the line broke, and is being laid again
    this.isLong = false;
    this.#body = body;
  }

  #body;
  #abort = new AbortController();
  #lastMs = performance.now();
  #lookedMs = 0;
  #laidSinceMs = null;
  #firstMs = null;
  #timer = null;
  #n = 0;

  /** Ends when the answer does, however that is. */
  async run() {
    this.#timer = setInterval(() => this.#look(), 200);
    try {
      for await (const chunk of chat(this.#body, this.#abort.signal)) this.#take(chunk);
    } catch (error) {
      this.#note(error);
    } finally {
      clearInterval(this.#timer);
      this.phase = Phase.DONE;
      this.isLaying = this.isLong = false;
      this.#tell();
    }
  }

  stop() {
    this.#abort.abort();
  }

  #take(chunk) {
    const choice = chunk.choices[0];
    if (choice?.delta.content) {
      this.#arrived();
      this.message.content += choice.delta.content;
      this.phase = Phase.WRITING;
      this.#tell();
    }
    if (choice?.finish_reason === "length") this.message.cut = true;
    if (chunk.usage) this.#measure(chunk.usage.completion_tokens);
  }

  #arrived() {
    const nowMs = performance.now();
    if (this.#laidSinceMs !== null) {
      this.message.pauses = [...(this.message.pauses ?? []), (nowMs - this.#laidSinceMs) / 1000];
      this.#laidSinceMs = null;
    }
    this.isLaying = this.isLong = false;
    this.#firstMs ??= nowMs;
    this.#lastMs = nowMs;
    this.#n += 1;
    this.message.speed = this.#speed(this.#n);
  }

  /** Tokens per second between the first and the last, without pauses; null: there is no telling. */
  #speed(n) {
    const pauses = this.message.pauses ?? [];
    const seconds = (this.#lastMs - this.#firstMs) / 1000 - pauses.reduce((sum, each) => sum + each, 0);
    return n > 1 && seconds > 0 ? (n - 1) / seconds : null;
  }

  #measure(n) {
    this.message.n_tokens = n;
    if (this.#firstMs !== null) this.message.speed = this.#speed(n);
  }

  /** While no token comes: is the line being laid again? */
  async #look() {
    const nowMs = performance.now();
    const quietMs = nowMs - this.#lastMs;
    if (quietMs > LONG_MS && !this.isLong) {
      this.isLong = true;
      this.#tell();
    }
    if (quietMs < QUIET_MS || nowMs - this.#lookedMs < LOOK_MS) return;
    this.#lookedMs = nowMs;
    let isSuspended;
    try {
      const status = await (await ask("line?window_s=1", { signal: this.#abort.signal })).json();
      isSuspended = status.lines.some((line) => line.is_suspended);
    } catch {
      return; // the stream itself will say what is wrong
    }
    if (this.phase === Phase.DONE || this.#lastMs > nowMs || isSuspended === this.isLaying) return;
    this.isLaying = isSuspended;
    if (isSuspended) this.#laidSinceMs ??= this.#lastMs;
    this.#tell();
  }

  #note(error) {
    if (error.name === "AbortError") this.message.stopped = true;
    else if (error instanceof ServerError) this.message.error = error.message;
    else {
      this.message.error = `This page failed: ${error.message}`;
      console.error(error);
    }
    this.message.needsKey = error.status === 401;
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

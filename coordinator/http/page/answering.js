// SPDX-License-Identifier: MIT
// One answer on its way: asks, takes the pieces, notes its times and pauses, goes on with it when the server was away.
// Tells whoever shows it with "change".

import { ask, chat, chatAgain, CONNECTION_LOST, endAnswer, ofModel, ServerError } from "./server.js";

const QUIET_MS = 700; // without a token, until the line is asked what it does
const LONG_MS = 5000; // without a token, until that is said
const LOOK_MS = 400;
const RETRY_MS = 1000;
const AWAY_MS = 600_000; // for the server to come back: as long as it keeps answers unless told otherwise (--journal-keep)
const COMING = [502, 503, 504]; // statuses of a server that starts, and of proxies before one that is not there

const NOT_KEPT = "The connection to the server broke in the middle of the answer; a server with a journal would go on with"
  + " it, this one keeps none.";
const FORGOTTEN = "The server no longer has the rest of this answer.";

export const Phase = Object.freeze({ WAITING: "waiting", WRITING: "writing", DONE: "done" });

export class Answering extends EventTarget {
  /** @param message The assistant's, filled as it comes: {content, thoughts?, error?, ...}. While its rest can be had from
   *    the server, `underWay` says by which id and after which event; such a message is gone on with.
   *  @param body Of the request, with the messages before it. */
  constructor(message, body) {
    super();
    this.message = message;
    this.phase = message.underWay ? Phase.WRITING : Phase.WAITING;
    this.isLaying = false; // the line broke, and is being laid again
    this.isLong = false;
    this.load = null; // how its model is being loaded, in words, as whoever made this says
    this.away = null; // while there is no connection: "lost", or "loading" when the server is back
    delete message.error;
    delete message.needsKey;
    message.isOpen = true; // for whoever finds it kept like that
    if (message.underWay) delete message.speed;
    this.#body = body;
    this.#isWhole = !message.underWay;
  }

  #body;
  #isWhole; // all of it came in this page, so that its speed is known
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
      if (!this.message.underWay) await this.#begin();
      if (this.message.underWay) await this.#goOn();
    } catch (error) {
      this.#note(error);
    } finally {
      clearInterval(this.#timer);
      this.phase = Phase.DONE;
      this.isLaying = this.isLong = false;
      this.away = null;
      delete this.message.isOpen;
      if (!this.message.needsKey) delete this.message.underWay;
      this.#tell();
    }
  }

  stop() {
    this.#abort.abort();
    if (this.message.underWay) endAnswer(this.message.underWay.id);
  }

  /** Asks, and takes what comes; if the connection breaks on the way, and the rest is kept, that is left `underWay`. */
  async #begin() {
    let hasBegun = false;
    try {
      for await (const event of chat(this.#body, this.#abort.signal)) {
        hasBegun = true;
        this.#take(event);
      }
      delete this.message.underWay;
    } catch (error) {
      if (error.code !== CONNECTION_LOST || !hasBegun) throw error;
      if (!this.message.underWay) throw new ServerError(NOT_KEPT);
    }
  }

  /** Takes the rest as soon as there is a server that has it. */
  async #goOn() {
    let untilMs = performance.now() + AWAY_MS;
    for (;;) {
      const { id, number } = this.message.underWay;
      try {
        for await (const event of chatAgain(id, number, this.#abort.signal)) {
          this.#take(event);
          untilMs = performance.now() + AWAY_MS;
        }
        return;
      } catch (error) {
        if (error.status === 404) throw new ServerError(FORGOTTEN, error.status);
        const mayCome = error.code === CONNECTION_LOST || COMING.includes(error.status);
        if (!mayCome || performance.now() > untilMs) throw error;
        this.#noteAway(error.code === "loading" ? "loading" : "lost");
      }
      await pause(RETRY_MS, this.#abort.signal);
    }
  }

  #noteAway(away) {
    if (this.away === away) return;
    this.away = away;
    this.isLaying = this.isLong = false;
    this.#laidSinceMs = null;
    this.#tell();
  }

  #take({ chunk, number }) {
    if (number !== null) this.message.underWay = { id: chunk.id, number };
    this.#noteBack();
    const choice = chunk.choices[0];
    const { content, reasoning_content: thought } = choice?.delta ?? {};
    if (content || thought) {
      this.#arrived();
      this.message.content += content ?? "";
      if (thought) this.message.thoughts = (this.message.thoughts ?? "") + thought;
      this.phase = Phase.WRITING;
      this.#tell();
    }
    if (choice?.finish_reason === "length") this.message.cut = true;
    if (chunk.usage) this.#measure(chunk.usage.completion_tokens);
  }

  #noteBack() {
    if (this.away === null) return;
    this.away = null;
    this.#isWhole = false;
    this.message.absences = [...(this.message.absences ?? []), (performance.now() - this.#lastMs) / 1000];
    this.#tell();
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
    if (!this.#isWhole) return null;
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
    if (this.away !== null) return;
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
      const status = await (await ask(ofModel("line?window_s=1", this.message.model), { signal: this.#abort.signal })).json();
      isSuspended = status.lines.some((line) => line.is_suspended);
    } catch {
      return; // the stream itself will say what is wrong
    }
    if (this.phase === Phase.DONE || this.away !== null || this.#lastMs > nowMs || isSuspended === this.isLaying) return;
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

/** Ends after that time, or with an AbortError when `signal` says so. */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      if (signal.aborted) reject(new DOMException("stopped", "AbortError"));
      else resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}

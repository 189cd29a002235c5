// SPDX-License-Identifier: MIT
// Asks the server every second how it is, and what the line does while somebody looks at that. Not while the page is hidden.

import { ask, askData, key, ServerError } from "./server.js";

const EVERY_MS = 1000;

/** Tells "said" with {health, status, lineError, error}, and "key" once when one is wanted. */
export class Poll extends EventTarget {
  /** @param wantsLine Whether somebody looks at the line now. */
  constructor(wantsLine) {
    super();
    this.#wantsLine = wantsLine;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.begin(); });
  }

  #wantsLine;
  #timer = null;
  #isAsking = false;
  #refusedKey = null;

  /** Asks now, and from now on. */
  async begin() {
    clearTimeout(this.#timer);
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.dispatchEvent(new CustomEvent("said", { detail: await this.#ask() }));
    this.#isAsking = false;
    if (!document.hidden) this.#timer = setTimeout(() => this.begin(), EVERY_MS);
  }

  async #ask() {
    const said = { health: null, status: null, lineError: null, error: null };
    try {
      said.health = await (await ask("health", { takesAny: true })).json();
      // Without a key it tells its status, and no more.
      if (said.health.model === undefined) this.#wantKey();
      else if (this.#wantsLine() && said.health.status === "ready") await this.#askLine(said);
    } catch (error) {
      said.error = error instanceof ServerError ? error : new ServerError(`The server's answer cannot be read: ${error.message}`);
    }
    return said;
  }

  async #askLine(said) {
    try {
      said.status = await askData("line?window_s=10&devices=true");
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      said.lineError = error;
    }
  }

  #wantKey() {
    if (this.#refusedKey === key.value) return; // asked for already, and not given
    this.#refusedKey = key.value;
    this.dispatchEvent(new Event("key"));
  }
}

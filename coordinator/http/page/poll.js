// SPDX-License-Identifier: MIT
// Asks the server every second how it is, and what the line does while somebody looks at that. Not while the page is hidden.

import { ask, askData, key, ofModel, ServerError } from "./server.js";

const EVERY_MS = 1000;

/** Tells "said" with {health, models, model, status, lineError, error}, and "key" once when one is wanted. */
export class Poll extends EventTarget {
  /** @param wantsLine Whether somebody looks at the line now.
   *  @param chosen Which model, of several; null where there is one. */
  constructor(wantsLine, chosen) {
    super();
    this.#wantsLine = wantsLine;
    this.#chosen = chosen;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.begin(); });
  }

  #wantsLine;
  #chosen;
  #modelsAt = null; // status of the server when it was asked for its models
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
    const said = { health: null, models: null, model: this.#chosen(), status: null, lineError: null, error: null };
    try {
      said.health = await (await ask("health", { takesAny: true })).json();
      // Without a key it tells its status, and no more.
      if (said.health.model === undefined) this.#wantKey();
      else await this.#askMore(said);
    } catch (error) {
      this.#modelsAt = null; // it may come back with others
      said.error = error instanceof ServerError ? error : new ServerError(`The server's answer cannot be read: ${error.message}`);
    }
    return said;
  }

  async #askMore(said) {
    const { status } = said.health;
    if (status !== this.#modelsAt || said.model) said.models = (await askData("v1/models")).data;
    this.#modelsAt = status;
    const isThere = status === "ready" && (said.model?.state ?? "loaded") === "loaded";
    if (this.#wantsLine() && isThere) await this.#askLine(said);
  }

  async #askLine(said) {
    try {
      said.status = await askData(ofModel("line?window_s=10&devices=true", said.model?.id));
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

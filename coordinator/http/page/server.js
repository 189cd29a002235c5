// SPDX-License-Identifier: MIT
// Asking the server: with the key, and with its own sentences for what goes wrong.

import { read, remove, write } from "./store.js";

const LOST = "The server does not answer. Is caravan serve still running, and can this computer reach it?";

/** What the server, or the way to it, says is wrong. `status` is 0 where there was no answer. */
export class ServerError extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The API key: in this tab, or in this browser. */
export const key = {
  get value() {
    try {
      return sessionStorage.getItem("caravan.key") ?? read("key", "");
    } catch {
      return read("key", "");
    }
  },
  use(value, keeps) {
    this.forget();
    if (keeps) {
      write("key", value);
      return;
    }
    try {
      sessionStorage.setItem("caravan.key", value);
    } catch {
      write("key", value);
    }
  },
  forget() {
    remove("key");
    try {
      sessionStorage.removeItem("caravan.key");
    } catch {
      // It was not there either.
    }
  },
};

/** The answer to a request.
 *  @throws ServerError; AbortError when `options.signal` says so. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.value) headers.Authorization = `Bearer ${key.value}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(LOST);
  }
  if (!response.ok && !options.takesAny) throw await refusal(response);
  return response;
}

/** A JSON answer. */
export async function askData(path, options = {}) {
  return (await ask(path, options)).json();
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ServerError(error.message, response.status, error.code ?? "");
  } catch {
    return new ServerError(`The server answered ${response.status} without a reason.`, response.status);
  }
}

/** The chunks of a streamed chat answer.
 *  @throws ServerError; AbortError when `signal` says so. */
export async function* chat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, response.status, chunk.error.code ?? "");
    yield chunk;
  }
  throw new ServerError("The stream ended before the answer did. What came until then is above.");
}

/** The data of server-sent events, one after another. Source: "Server-sent events" in the HTML standard. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection to the server broke. What came until then is above.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

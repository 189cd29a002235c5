// SPDX-License-Identifier: MIT
// Asking the server: with the key, and with its own sentences for what goes wrong.

import { read, remove, write } from "./store.js";

export const CONNECTION_LOST = "connection_lost"; // code of an error, where no server is to be heard

const LOST = "The server does not answer. Is caravan serve still running, and can this computer reach it?";
const BROKE = "The connection to the server broke in the middle of the answer.";

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
    throw new ServerError(LOST, 0, CONNECTION_LOST);
  }
  if (!response.ok && !options.takesAny) throw await refusal(response);
  return response;
}

/** The path of what is asked of one of several models; `model` is its name, or nothing where there is one. */
export function ofModel(path, model) {
  return model ? `${path}${path.includes("?") ? "&" : "?"}model=${encodeURIComponent(model)}` : path;
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

/** What came of a streamed chat answer, one event after another: {chunk, number}. The number counts them where the server
 *  keeps its answers, so that the rest can be had by `chatAgain` when the connection breaks; else it is null.
 *  @throws ServerError; AbortError when `signal` says so. */
export async function* chat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  yield* chunks(response);
}

/** The same of an answer that was begun before, after the event of this number. */
export async function* chatAgain(id, number, signal) {
  const path = `v1/chat/completions/${encodeURIComponent(id)}?stream=true&starting_after=${encodeURIComponent(number)}`;
  yield* chunks(await ask(path, { signal }));
}

/** Ends an answer that goes on without a reader, where the server keeps it; nothing happens where it cannot be told so. */
export async function endAnswer(id) {
  await ask(`v1/chat/completions/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(() => {});
}

async function* chunks(response) {
  for await (const { data, number } of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, response.status, chunk.error.code ?? "");
    yield { chunk, number };
  }
  throw new ServerError(BROKE, 0, CONNECTION_LOST);
}

/** Server-sent events, one after another: their data, and their id or null. Source: "Server-sent events" in the HTML
 *  standard. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let number = null;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("id:")) number = line.slice(3).trim();
        else if (line.startsWith("data:")) yield { data: line.slice(5).trim(), number };
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(BROKE, 0, CONNECTION_LOST);
  } finally {
    reader.cancel().catch(() => {});
  }
}

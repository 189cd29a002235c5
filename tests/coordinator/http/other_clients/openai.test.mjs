// SPDX-License-Identifier: MIT
// OpenAI's client for JavaScript against CARAVAN_URL, by node's own test runner; started by test_other_clients.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.CARAVAN_URL, apiKey: "none", maxRetries: 0 });
const model = process.env.CARAVAN_MODEL;
const messages = [{ role: "user", content: "Tell me a story about a llama." }];
const greedy = { model, messages, max_tokens: 24, temperature: 0 };
const endless = { ...greedy, max_tokens: 1500, grammar: 'root ::= "ab" root' };

async function isIdle() {
  const health = await (await fetch(process.env.CARAVAN_URL.replace(/v1$/, "health"))).json();
  return health.n_running === 0;
}

test("a chat is answered", async () => {
  const answer = await client.chat.completions.create(greedy);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(answer.choices[0].message.content.length > 10);
  assert.equal(answer.usage.completion_tokens, 24);
});

test("a stream is the whole answer", async () => {
  const whole = await client.chat.completions.create(greedy);
  let text = "";
  let usage;
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...greedy, ...options })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

test("the client puts a stream together itself", async () => {
  const whole = await client.chat.completions.create(greedy);
  const final = await client.chat.completions.stream(greedy).finalChatCompletion();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
});

test("a completion is answered, whole and streamed", async () => {
  const asked = { model, prompt: "Once upon a time", max_tokens: 12, temperature: 0 };
  const whole = await client.completions.create(asked);
  let text = "";
  for await (const chunk of await client.completions.create({ ...asked, stream: true })) text += chunk.choices[0].text;
  assert.equal(text, whole.choices[0].text);
});

test("a JSON schema is kept", async () => {
  const schema = {
    type: "object",
    properties: { age: { type: "integer", minimum: 0, maximum: 30 }, colour: { enum: ["brown", "white"] } },
    required: ["age", "colour"],
    additionalProperties: false,
  };
  const response_format = { type: "json_schema", json_schema: { name: "llama", strict: true, schema } };
  const answer = await client.chat.completions.create({ ...greedy, max_tokens: 200, response_format });
  const llama = JSON.parse(answer.choices[0].message.content);
  assert.ok(Number.isInteger(llama.age) && llama.age >= 0 && llama.age <= 30);
  assert.ok(["brown", "white"].includes(llama.colour));
});

test("log probabilities come with rivals", async () => {
  const answer = await client.chat.completions.create({ ...greedy, logprobs: true, top_logprobs: 3 });
  for (const entry of answer.choices[0].logprobs.content) assert.equal(entry.top_logprobs.length, 3);
});

test("several answers are told apart", async () => {
  const answer = await client.chat.completions.create({ ...greedy, n: 3 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
});

test("a stop string ends the text before it", async () => {
  const answer = await client.chat.completions.create({ ...greedy, max_tokens: 200, stop: [" llama"] });
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(!answer.choices[0].message.content.includes(" llama"));
});

test("models are listed", async () => {
  const ids = [];
  for await (const each of client.models.list()) ids.push(each.id);
  assert.deepEqual(ids, [model]);
});

test("what cannot be is a bad request that names the field", async () => {
  await assert.rejects(client.chat.completions.create({ ...greedy, n: 0 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    return true;
  });
});

test("what is not there is not found", async () => {
  await assert.rejects(client.models.retrieve("gpt-4o"), OpenAI.NotFoundError);
});

test("a stream that is left frees its slot", async () => {
  const stream = await client.chat.completions.create({ ...endless, stream: true });
  for await (const _ of stream) break;
  for (let looks = 0; !(await isIdle()); looks++) {
    assert.ok(looks < 100);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

test("a request that is aborted frees its slot", async () => {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 300);
  await assert.rejects(client.chat.completions.create(endless, { signal: controller.signal }));
  for (let looks = 0; !(await isIdle()); looks++) {
    assert.ok(looks < 100);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

test("many at once are all answered", async () => {
  const asks = Array.from({ length: 8 }, () => client.chat.completions.create(greedy));
  for (const answer of await Promise.all(asks)) assert.equal(answer.usage.completion_tokens, 24);
});

// openai for Node: chat completions and the Responses API, with schemas of zod 4.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as cases from "./cases.mjs";

const { MODEL: model, QUESTION, WEATHER } = cases;
const client = new OpenAI({ baseURL: cases.V1, apiKey: cases.KEY, maxRetries: 0 });
const user = (content) => ({ role: "user", content });
const ask = (content, options = {}) =>
  client.chat.completions.create({ model, messages: [user(content)], ...options });

const Weather = z.object({ city: z.string() });
const City = z.object({
  name: z.string().max(40),
  founded: z.iso.date(),
  mail: z.email(),
  id: z.uuid(),
  rivers: z.array(z.string().max(40)).max(1),
});

await cases.run({
  async chat() {
    const answer = await ask(QUESTION);
    assert.match(answer.choices[0].message.content, /Paris/);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert(answer.usage.total_tokens > 0);
  },

  async stream() {
    const whole = await ask(QUESTION);
    let text = "";
    let reason;
    for await (const chunk of await ask(QUESTION, { stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
      reason = chunk.choices[0]?.finish_reason ?? reason;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(reason, "stop");
    const runner = client.chat.completions.stream({ model, messages: [user(QUESTION)] });
    assert.equal(await runner.finalContent(), text);
  },

  async tools() {
    const tools = [zodFunction({ name: "get_weather", parameters: Weather })];
    const messages = [user(WEATHER)];
    const first = await client.chat.completions.parse({
      model,
      messages,
      tools,
      tool_choice: "required",
      parallel_tool_calls: false,
    });
    const { message, finish_reason } = first.choices[0];
    assert.equal(finish_reason, "tool_calls");
    const [call] = message.tool_calls;
    const content = cases.getWeather(call.function.parsed_arguments);
    messages.push(message, { role: "tool", tool_call_id: call.id, content });
    const after = await client.chat.completions.create({
      model,
      messages,
      tools,
      tool_choice: "none",
    });
    assert(after.choices[0].message.content);
  },

  async runTools() {
    let called = 0;
    const runner = client.chat.completions.runTools({
      model,
      messages: [user(WEATHER)],
      tool_choice: { type: "function", function: { name: "get_weather" } },
      tools: [
        zodFunction({
          name: "get_weather",
          parameters: Weather,
          function: (parameters) => {
            called += 1;
            return cases.getWeather(parameters);
          },
        }),
      ],
    });
    await runner.done();
    assert.equal(called, 1);
  },

  async structured() {
    const answer = await client.chat.completions.parse({
      model,
      messages: [user("Tell me of Paris.")],
      response_format: zodResponseFormat(City, "city"),
    });
    City.parse(answer.choices[0].message.parsed);
  },

  async error() {
    const tooLong = await ask(cases.TOO_LONG).catch((error) => error);
    assert(tooLong instanceof OpenAI.BadRequestError);
    assert.equal(tooLong.code, "context_length_exceeded");
    const refused = await ask("Hi", { temperature: 7 }).catch((error) => error);
    assert.equal(refused.param, "temperature");
    assert(refused.requestID);
  },

  async abort() {
    const gone = await cases.watch();
    for await (const _ of await ask(cases.STORY, { stream: true, max_tokens: 2000 })) break;
    await gone();
    const goneToo = await cases.watch();
    const controller = new AbortController();
    const waiting = client.chat.completions.create(
      { model, messages: [user(cases.STORY)], max_tokens: 2000 },
      { signal: controller.signal },
    );
    setTimeout(() => controller.abort(), 300);
    await assert.rejects(waiting, OpenAI.APIUserAbortError);
    await goneToo();
  },

  async responses() {
    const whole = await client.responses.create({ model, input: QUESTION });
    assert.match(whole.output_text, /Paris/);
    const final = await client.responses.stream({ model, input: QUESTION }).finalResponse();
    assert.equal(final.output_text, whole.output_text);
    const shaped = await client.responses.parse({
      model,
      input: "Tell me of Paris.",
      text: { format: zodTextFormat(City, "city") },
    });
    City.parse(shaped.output_parsed);
  },
});

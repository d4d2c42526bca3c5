// LangChain.js: ChatOpenAI and an agent, over chat completions or the Responses API.

import assert from "node:assert/strict";
import { ContextOverflowError } from "@langchain/core/errors";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, createMiddleware } from "langchain";
import { z } from "zod";
import * as cases from "./cases.mjs";

const model = new ChatOpenAI({
  model: cases.MODEL,
  apiKey: cases.KEY,
  configuration: { baseURL: cases.V1 },
  maxRetries: 0,
  useResponsesApi: cases.WAY === "responses",
});
const getWeather = tool(cases.getWeather, {
  name: "get_weather",
  description: "The weather in a city.",
  schema: z.object({ city: z.string() }),
});
// For the Responses API, the client leaves out the words `required` and `none`.
const CALL = { type: "function", function: { name: "get_weather" } };
const City = z.object({
  name: z.string().max(40),
  founded: z.iso.date(),
  mail: z.email(),
  rivers: z.array(z.string().max(40)).max(1),
});

await cases.run({
  async chat() {
    const answer = await model.invoke(cases.QUESTION);
    assert.match(answer.text, /Paris/);
    assert(answer.usage_metadata.total_tokens > 0);
  },

  async stream() {
    const whole = await model.invoke(cases.QUESTION);
    let text = "";
    for await (const chunk of await model.stream(cases.QUESTION)) text += chunk.text;
    assert.equal(text, whole.text);
  },

  async tools() {
    const messages = [new HumanMessage(cases.WEATHER)];
    const options = { tool_choice: CALL, parallel_tool_calls: false };
    const answer = await model.bindTools([getWeather], options).invoke(messages);
    assert.equal(answer.tool_calls.length, 1);
    messages.push(answer, await getWeather.invoke(answer.tool_calls[0]));
    const after = await model.bindTools([getWeather], { tool_choice: "none" }).invoke(messages);
    assert(after.text);
  },

  async agent() {
    const firstACall = createMiddleware({
      name: "FirstACall",
      wrapModelCall: (request, handler) =>
        handler({
          ...request,
          modelSettings: { parallel_tool_calls: false },
          toolChoice: request.messages.some(ToolMessage.isInstance) ? "none" : CALL,
        }),
    });
    const agent = createAgent({ model, tools: [getWeather], middleware: [firstACall] });
    const { messages } = await agent.invoke({ messages: [new HumanMessage(cases.WEATHER)] });
    const kinds = messages.map((message) => message.type);
    assert.deepEqual(kinds.slice(0, 3), ["human", "ai", "tool"]);
    assert.equal(kinds.at(-1), "ai");
    assert(messages.at(-1).text);
  },

  async structured() {
    for (const method of ["jsonSchema", "functionCalling"]) {
      const shaped = model.withStructuredOutput(City, { method, name: "city" });
      City.parse(await shaped.invoke("Tell me of Paris."));
    }
  },

  async error() {
    const tooLong = await model.invoke(cases.TOO_LONG).catch((error) => error);
    assert(ContextOverflowError.isInstance(tooLong), String(tooLong));
  },

  async abort() {
    const gone = await cases.watch();
    const controller = new AbortController();
    const stream = await model.stream(cases.STORY, { signal: controller.signal });
    await assert.rejects(async () => {
      for await (const chunk of stream) if (chunk.text) controller.abort();
    });
    await gone();
  },
});

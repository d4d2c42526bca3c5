// Vercel's AI SDK: `openai()`, which is the Responses API, or `openai.chat()`.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as cases from "./cases.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: cases.V1, apiKey: cases.KEY });
const model = cases.WAY === "chat" ? openai.chat(cases.MODEL) : openai(cases.MODEL);
const providerOptions = { openai: { parallelToolCalls: false } };
const options = { model, maxRetries: 0, providerOptions };
const { QUESTION: prompt } = cases;

const City = z.object({
  name: z.string().max(40),
  founded: z.iso.date(),
  mail: z.email(),
  size: z.enum(["small", "large"]),
  rivers: z.array(z.string().max(40)).max(1),
});

function weather(called) {
  return {
    get_weather: tool({
      description: "The weather in a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async (input) => {
        called.push(input.city);
        return cases.getWeather(input);
      },
    }),
  };
}

const firstACall = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });

await cases.run({
  async chat() {
    const answer = await generateText({ ...options, prompt });
    assert.match(answer.text, /Paris/);
    assert.equal(answer.finishReason, "stop");
    assert(answer.usage.totalTokens > 0);
  },

  async stream() {
    const whole = await generateText({ ...options, prompt });
    const result = streamText({ ...options, prompt });
    let text = "";
    for await (const delta of result.textStream) text += delta;
    assert.equal(text, whole.text);
    assert.equal(await result.finishReason, "stop");
    assert.equal((await result.usage).totalTokens, whole.usage.totalTokens);
  },

  async tools() {
    const called = [];
    const loop = {
      ...options,
      prompt: cases.WEATHER,
      tools: weather(called),
      prepareStep: firstACall,
      stopWhen: stepCountIs(3),
    };
    const answer = await generateText(loop);
    assert(called.length > 0);
    assert.equal(answer.steps.length, 2);
    assert(answer.text);
    const streamed = streamText(loop);
    let text = "";
    for await (const delta of streamed.textStream) text += delta;
    assert.equal(text, answer.text);
  },

  async structured() {
    const answer = await generateText({
      ...options,
      prompt: "Tell me of Paris.",
      output: Output.object({ schema: City }),
    });
    City.parse(answer.output);
  },

  async error() {
    const tooLong = await generateText({ ...options, prompt: cases.TOO_LONG }).catch(
      (error) => error,
    );
    assert(APICallError.isInstance(tooLong), String(tooLong));
    assert.equal(tooLong.statusCode, 400);
    assert.equal(tooLong.isRetryable, false);
    assert.match(tooLong.message, /maximum context length/);
    assert.equal(tooLong.data.error.code, "context_length_exceeded");
  },

  async abort() {
    const gone = await cases.watch();
    const controller = new AbortController();
    const result = streamText({
      ...options,
      prompt: cases.STORY,
      maxOutputTokens: 2000,
      abortSignal: controller.signal,
    });
    let text = "";
    for await (const delta of result.textStream) {
      text += delta;
      controller.abort();
    }
    assert(text);
    await gone();
  },
});

// One answer: request, receipt, timing and summary.

import { streamChat } from "./api.js";

const ENDS = new Map([
  ["length", "Reached the maximum length."],
  ["stopped", "Stopped."],
  ["error", "Interrupted."],
]);

/** An answer without any text yet. */
export function newAnswer() {
  const figures = { prompt: null, cached: null, tokens: null, first: null, rate: null };
  return { role: "assistant", content: "", finish: "stopped", figures };
}

/** Fills an answer as it is generated, until it ends; calls `grew` after each piece of text. */
export async function receive(answer, body, key, signal, grew) {
  const started = performance.now();
  let first = null;
  let last = null;
  try {
    for await (const { choices, usage } of streamChat(body, key, signal)) {
      const text = choices[0]?.delta?.content;
      const reason = choices[0]?.finish_reason;
      if (text) {
        last = performance.now();
        first ??= last;
        answer.content += text;
        grew();
      }
      if (reason) answer.finish = reason === "length" ? "length" : "stop";
      if (usage) answer.figures = figures(usage, started, first, last);
    }
  } catch (error) {
    answer.finish = error.name === "AbortError" ? "stopped" : "error";
    throw error;
  }
}

function figures(usage, started, first, last) {
  const tokens = usage.completion_tokens;
  return {
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? null,
    tokens,
    first: first && (first - started) / 1000,
    rate: last > first ? ((tokens - 1) * 1000) / (last - first) : null,
  };
}

/** Describes how an answer ended and how fast it was; empty if nothing is known. */
export function summary({ finish, figures: { prompt, cached, tokens, first, rate } }) {
  return [
    ENDS.get(finish),
    tokens !== null && `${tokens} ${tokens === 1 ? "token" : "tokens"}`,
    rate !== null && `${rate.toFixed(1)} tokens/s`,
    first !== null && `first after ${first.toFixed(2)} s`,
    cached > 0 && `${cached} of ${prompt} prompt tokens reused`,
  ]
    .filter(Boolean)
    .join(" · ");
}

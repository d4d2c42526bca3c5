// One answer: request, receipt, timing and summary.

import { streamChat } from "./api.js";

const ENDS = new Map([
  ["length", "Stopped at the length limit"],
  ["stopped", "Stopped"],
  ["error", "Interrupted"],
]);

/** An answer of which nothing has come yet. */
export function newAnswer() {
  const figures = {
    prompt: null,
    cached: null,
    tokens: null,
    first: null,
    rate: null,
    memory: null,
  };
  return { role: "assistant", content: "", reasoning: "", calls: [], finish: "stopped", figures };
}

/** Returns whether nothing of an answer has come. */
export function isEmpty({ content, reasoning, calls }) {
  return !content && !reasoning && !calls.length;
}

/** Fills an answer as it is generated, until it ends; calls `grew` after each piece of it. */
export async function receive(answer, body, key, signal, grew) {
  const started = performance.now();
  const before = answer.figures.tokens ?? 0;
  let first = null;
  let last = null;
  try {
    for await (const { choices, usage } of streamChat(body, key, signal)) {
      const reason = choices[0]?.finish_reason;
      if (append(answer, choices[0]?.delta ?? {})) {
        last = performance.now();
        first ??= last;
        grew();
      }
      if (reason) answer.finish = reason === "length" ? "length" : "stop";
      if (usage) Object.assign(answer.figures, figures(usage, before, started, first, last));
    }
  } catch (error) {
    // A continued answer that got nothing more is as it was.
    const changed = last !== null || isEmpty(answer);
    if (changed) answer.finish = error.name === "AbortError" ? "stopped" : "error";
    throw error;
  }
}

/** Returns whether there was something to append. */
function append(answer, { content, reasoning_content, tool_calls }) {
  answer.content += content ?? "";
  answer.reasoning += reasoning_content ?? "";
  for (const { index, function: called } of tool_calls ?? []) {
    answer.calls[index] ??= { name: called.name, arguments: "" };
    answer.calls[index].arguments += called.arguments ?? "";
  }
  return Boolean(content || reasoning_content || tool_calls);
}

function figures(usage, before, started, first, last) {
  const tokens = usage.completion_tokens;
  return {
    prompt: usage.prompt_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? null,
    tokens: before + tokens,
    first: first && (first - started) / 1000,
    rate: last > first ? ((tokens - 1) * 1000) / (last - first) : null,
  };
}

/** Describes how an answer ended, how long it is and how fast it was; empty if nothing is known. */
export function summary({ finish, figures: { tokens, rate } }) {
  return joined([
    ENDS.get(finish),
    tokens !== null && `${tokens} ${tokens === 1 ? "token" : "tokens"}`,
    rate !== null && `${rate.toFixed(1)} tokens/s`,
  ]);
}

/** Describes what else is known of an answer; empty if nothing is. */
export function details({ figures: { prompt, cached, first, memory } }) {
  return joined([
    first !== null && `First token after ${first.toFixed(2)} s`,
    prompt !== null && `${cached ?? 0} of ${prompt} prompt tokens reused`,
    memory !== null && `${Math.round(memory / 2 ** 20)} MiB of memory in use`,
  ]);
}

function joined(parts) {
  return parts.filter(Boolean).join(" · ");
}

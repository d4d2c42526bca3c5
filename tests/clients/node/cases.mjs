// Runs the cases of a client, printing a line of JSON for each: `{"case": ..., "fault": ...}`.
//
// The programs beside this module get the server's address and the model's name as arguments, and
// maybe which of the client's ways to take.

import assert from "node:assert/strict";

export const [URL, MODEL, WAY = ""] = process.argv.slice(2);
export const V1 = `${URL}/v1`;
export const KEY = "unused";

export const QUESTION = "Name the capital of France.";
export const STORY = "Write a very long story about a river, with many chapters.";
export const WEATHER = "What is the weather in Paris?";
export const TOO_LONG = "word ".repeat(40_000);
// Time in which a request must be gone whose client stopped reading.
const PATIENCE_MS = 2000;

export const getWeather = ({ city }) => `It rains in ${city}.`;

export async function run(cases) {
  for (const [name, test] of Object.entries(cases)) {
    let fault = "";
    try {
      await test();
    } catch (error) {
      fault = `${error.name}: ${error.message}`.split(/\s+/).join(" ").slice(0, 300);
    }
    console.log(JSON.stringify({ case: name, fault }));
  }
}

async function requests() {
  const status = await (await fetch(`${URL}/v1/status`)).json();
  return { ...status.requests, running: status.running };
}

// Returns a function that checks that the server has given up one request since.
export async function watch() {
  const before = (await requests()).cancelled;
  return async () => {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const now = await requests();
      if (now.running === 0 && now.cancelled === before + 1) return;
      assert(Date.now() < deadline, `the server goes on: ${JSON.stringify(now)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
}

// The line about the device, kept fresh.

import { getJson } from "./api.js";
import { offerModels } from "./settings.js";
import { loadKey } from "./store.js";

const EVERY_MS = 5000;

const line = document.getElementById("device");
let known = false;

/** Asks the device how it is, and shows it. */
export async function refresh() {
  try {
    const status = await getJson("v1/status", loadKey());
    show(summary(status), status.health);
    document.getElementById("model").textContent = status.identity.model;
    if (!known) offerModels((await getJson("v1/models", loadKey())).data.map(({ id }) => id));
    known = true;
  } catch (error) {
    show(error.message, "unknown");
    // It may come back with another release.
    known = false;
  }
}

/** Keeps the line fresh as long as somebody can see it. */
export function watch() {
  refresh();
  setInterval(() => document.hidden || refresh(), EVERY_MS);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

function show(text, health) {
  // A screen reader or a selection is not disturbed by what stays the same.
  if (line.textContent !== text) line.textContent = text;
  line.dataset.health = health;
}

function summary(status) {
  const { health, running, queue_length, tokens_per_s, memory_bytes, temperature_c } = status;
  return [
    health,
    running + queue_length > 1 && `${running} running, ${queue_length} waiting`,
    tokens_per_s.last !== null && `${tokens_per_s.last.toFixed(1)} tokens/s`,
    `${Math.round(memory_bytes / 2 ** 20)} MiB`,
    temperature_c !== null && `${Math.round(temperature_c)} °C`,
  ]
    .filter(Boolean)
    .join(" · ");
}

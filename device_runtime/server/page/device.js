// The device's status line, refreshed regularly.

import { getJson } from "./api.js";
import { offerModels } from "./settings.js";
import { loadKey } from "./store.js";

const EVERY_MS = 5000;

const line = document.getElementById("device");
let known = false;

/** Requests the device's status, and shows it. */
export async function refresh() {
  try {
    const status = await getJson("v1/status", loadKey());
    show(summary(status), status.health);
    document.getElementById("model").textContent = status.identity.model;
    if (!known) offerModels((await getJson("v1/models", loadKey())).data.map(({ id }) => id));
    known = true;
  } catch (error) {
    show(error.message, "unknown");
    // It may return with another release.
    known = false;
  }
}

/** Refreshes the line as long as the page is visible. */
export function watch() {
  refresh();
  setInterval(() => document.hidden || refresh(), EVERY_MS);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

function show(text, health) {
  // Unchanged text is left alone, so as not to disturb a screen reader or a selection.
  if (line.textContent !== text) line.textContent = text;
  line.dataset.health = health;
}

function summary(status) {
  const { health, running, queue_length, tokens_per_s, memory_bytes, board } = status;
  return [
    health,
    running + queue_length > 1 && `${running} running, ${queue_length} waiting`,
    tokens_per_s.last !== null && `${tokens_per_s.last.toFixed(1)} tokens/s`,
    `${Math.round(memory_bytes / 2 ** 20)} MiB`,
    board.temperature_c !== null && `${Math.round(board.temperature_c)} °C`,
  ]
    .filter(Boolean)
    .join(" · ");
}

// The device's state, refreshed regularly.

import { getJson } from "./api.js";
import { allowSpeech } from "./dictation.js";
import { complainOfDevice } from "./notice.js";
import { allowPictures } from "./pending.js";
import { offerModels } from "./settings.js";
import { loadKey } from "./store.js";

const EVERY_MS = 5000;
const TROUBLE = new Map([
  [0, "offline"],
  [401, "needs an API key"],
]);

const line = document.getElementById("device");
let known = false;
let memory = null;

/** Returns the memory that the device's service used when last seen, bytes; null if unknown. */
export function usedMemory() {
  return memory;
}

/** Requests the device's status, and shows it. */
export async function refresh() {
  try {
    const status = await getJson("v1/status", loadKey());
    memory = status.memory_bytes;
    show(summary(status), status.health);
    document.getElementById("model").textContent = status.identity.model;
    complainOfDevice("");
    if (!known) {
      const { data } = await getJson("v1/models", loadKey());
      const takes = (model, kind) => model.input_modalities?.includes(kind);
      // An embedding model does not chat, and a speech model does not either.
      const chatting = data.filter((model) => !model.dimensions && !takes(model, "audio"));
      offerModels(chatting.map(({ id }) => id));
      allowPictures(chatting.some((model) => takes(model, "image")));
      allowSpeech(data.some((model) => takes(model, "audio")));
    }
    known = true;
  } catch (error) {
    show(TROUBLE.get(error.status) ?? "not available", "unknown");
    complainOfDevice(error.message);
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

function summary({ health, running, queue_length, board }) {
  return [
    health,
    running + queue_length > 1 && `${running} running, ${queue_length} waiting`,
    board.temperature_c !== null && `${Math.round(board.temperature_c)} °C`,
  ]
    .filter(Boolean)
    .join(" · ");
}

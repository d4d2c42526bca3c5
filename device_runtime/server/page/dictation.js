// Dictation: what is said into the microphone, or in a file, becomes text of the message.

import { transcribe } from "./api.js";
import { announce, complain } from "./notice.js";
import { record, wav } from "./recording.js";
import { loadKey } from "./store.js";

/** A longer recording could be larger than the device takes. */
const LONGEST_S = 600;
const SHOW_EVERY_MS = 250;

const REASONS = new Map([
  ["NotAllowedError", "The browser does not let this page use the microphone. Allow it in the site's settings."],
  ["NotFoundError", "There is no microphone."],
  ["NotReadableError", "The microphone cannot be used: another program may have it."],
]);

const at = (id) => document.getElementById(id);
const line = at("dictation");
const question = at("question");
const speak = at("speak");

let allowed = false;
/** Functions to `finish` and to `discard` what is under way; null if nothing is. */
let current = null;
let explain = null;

/** Offers to dictate if the device has a speech model, and the browser a microphone. */
export function allowSpeech(hears) {
  allowed = hears;
  // Browsers let pages of other machines use it over HTTPS alone.
  speak.hidden = !(hears && navigator.mediaDevices && window.MediaRecorder);
}

/** Returns whether the device can write recordings down. */
export function hears() {
  return allowed;
}

/** Has the page take speech from now on; `failed` is called with an error of the device. */
export function acceptSpeech(failed) {
  explain = failed;
  speak.addEventListener("click", () => (current ? current.finish() : dictate()));
  at("discard").addEventListener("click", () => current?.discard());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !current) return;
    if (document.querySelector("dialog[open], :popover-open")) return;
    // It would stop the answer, too.
    event.stopImmediatePropagation();
    current.discard();
  });
}

/** Puts what is said in a file at the caret; `unreadable` is shown if the browser cannot open it. */
export async function writeDown(file, unreadable) {
  if (current) return;
  complain(allowed ? "" : "This device has no speech model: it cannot write recordings down.");
  if (!allowed) return;
  const controller = new AbortController();
  begin("Writing down …", { finish: () => {}, discard: () => controller.abort() });
  speak.setAttribute("aria-disabled", "true");
  try {
    const sound = await wav(file).catch(() => null);
    const text = sound && (await transcribe(sound, loadKey(), controller.signal));
    if (text) insert(text);
    else complain(sound ? "No speech was heard." : unreadable);
  } catch (error) {
    if (error.name !== "AbortError") explain(error);
  } finally {
    end();
  }
}

async function dictate() {
  complain("");
  let wanted = true;
  // The browser may ask the user first.
  begin("Waiting for the microphone …", { finish: () => {}, discard: () => (wanted = false) });
  const recording = await record().catch((error) => {
    complain(REASONS.get(error.name) ?? `The microphone cannot be used: ${error.message}.`);
  });
  if (!recording) return end();
  const discard = () => {
    wanted = false;
    recording.stop();
  };
  begin("Recording", { finish: recording.stop, discard });
  speak.textContent = "Done";
  speak.classList.add("main");
  line.classList.add("recording");
  if (!wanted) discard();
  const started = performance.now();
  const timer = setInterval(() => {
    const seconds = Math.floor((performance.now() - started) / 1000);
    showTime(seconds);
    if (seconds >= LONGEST_S) recording.stop();
  }, SHOW_EVERY_MS);
  showTime(0);
  const file = await recording.ended;
  clearInterval(timer);
  end();
  if (wanted) await writeDown(file, "Nothing was recorded.");
}

/** Puts text at the caret, with spaces between it and the words around it. */
function insert(text) {
  const { value, selectionStart: start, selectionEnd: stop } = question;
  const before = /\S$/.test(value.slice(0, start)) ? " " : "";
  const after = /^[^\s.,;:!?]/.test(value.slice(stop)) ? " " : "";
  question.setRangeText(before + text + after, start, stop, "end");
  question.dispatchEvent(new Event("input"));
  announce(text);
  // On a phone, this would bring up a keyboard.
  if (!matchMedia("(pointer: coarse)").matches) question.focus();
}

function showTime(seconds) {
  at("seconds").textContent = `${Math.floor(seconds / 60)}:${`${seconds % 60}`.padStart(2, "0")}`;
}

function begin(state, ways) {
  current = ways;
  at("dictation-state").textContent = state;
  at("seconds").textContent = "";
  line.hidden = false;
  announce(state);
}

function end() {
  current = null;
  const focused = document.activeElement === at("discard");
  line.hidden = true;
  line.classList.remove("recording");
  speak.textContent = "Speak";
  speak.classList.remove("main");
  speak.removeAttribute("aria-disabled");
  if (focused) speak.focus();
}

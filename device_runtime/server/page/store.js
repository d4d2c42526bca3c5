// The browser's storage: conversations and settings persist, the API key lasts as long as the tab.
//
// Storage may be disabled, full, or written by another program or version: everything read is
// checked, and what cannot be written is reported and stays in memory.

import { newAnswer } from "./answer.js";
import { deletePictures } from "./picture_store.js";

const CHAT = "edgepack.chat.";
const SETTINGS = "edgepack.settings";
const KEY = "edgepack.key";

const FIELDS = {
  model: "string",
  system: "string",
  temperature: "number",
  top_p: "number",
  max_tokens: "number",
  seed: "number",
};
const FINISHES = ["stop", "length", "stopped", "error"];

let keyInMemory = "";

/** Returns an identifier that nothing else has. */
export function newId() {
  // Pages over plain HTTP have no crypto.randomUUID.
  const [number] = crypto.getRandomValues(new BigUint64Array(1));
  return number.toString(36);
}

/** Returns all saved conversations, newest first, without their pictures. */
export function loadChats() {
  const chats = [];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const name = localStorage.key(i);
      if (name.startsWith(CHAT)) chats.push(asChat(name.slice(CHAT.length), read(name)));
    }
  } catch {
    return [];
  }
  return chats.filter(Boolean).sort((a, b) => b.updated - a.updated);
}

/** Saves a conversation without its pictures; returns whether that worked. */
export function saveChat(chat) {
  const { id, ...kept } = chat;
  kept.messages = kept.messages.map((message) => ({
    ...message,
    pictures: message.pictures?.map(({ id, name }) => ({ id, name })),
  }));
  return write(CHAT + id, kept);
}

/** Deletes a conversation and its pictures. */
export function deleteChat(id) {
  deletePictures(id);
  try {
    localStorage.removeItem(CHAT + id);
  } catch {
    // Then it was not saved either.
  }
}

/** Returns the settings; missing ones use the device's defaults. */
export function loadSettings() {
  const kept = read(SETTINGS);
  const settings = {};
  for (const [name, type] of Object.entries(FIELDS)) {
    if (typeof kept?.[name] === type) settings[name] = kept[name];
  }
  return settings;
}

/** Saves the settings; returns whether that worked. */
export function saveSettings(settings) {
  return write(SETTINGS, settings);
}

/** Returns the API key; empty if there is none. */
export function loadKey() {
  try {
    return sessionStorage.getItem(KEY) ?? keyInMemory;
  } catch {
    return keyInMemory;
  }
}

/** Stores the API key for this tab. */
export function saveKey(key) {
  keyInMemory = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // Then it lasts as long as the page.
  }
}

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function asChat(id, value) {
  if (!Array.isArray(value?.messages)) return null;
  const messages = value.messages.map(asMessage);
  if (messages.includes(null)) return null;
  return {
    id,
    title: asText(value.title),
    updated: asNumber(value.updated) ?? 0,
    messages,
  };
}

function asMessage(value) {
  if (typeof value?.content !== "string") return null;
  if (value.role === "user") {
    const pictures = Array.isArray(value.pictures) ? value.pictures.map(asPicture) : [];
    return { role: "user", content: value.content, pictures };
  }
  if (value.role !== "assistant") return null;
  const answer = newAnswer();
  for (const name of Object.keys(answer.figures)) {
    answer.figures[name] = asNumber(value.figures?.[name]);
  }
  answer.content = value.content;
  answer.reasoning = asText(value.reasoning);
  if (Array.isArray(value.calls)) {
    answer.calls = value.calls.map((call) => ({
      name: asText(call?.name),
      arguments: asText(call?.arguments),
    }));
  }
  if (FINISHES.includes(value.finish)) answer.finish = value.finish;
  return answer;
}

function asPicture(value) {
  return { id: asText(value?.id), name: asText(value?.name), url: null };
}

function asText(value) {
  return typeof value === "string" ? value : "";
}

function asNumber(value) {
  return Number.isFinite(value) ? value : null;
}

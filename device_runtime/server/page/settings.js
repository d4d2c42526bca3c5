// The dialog of settings. Empty fields are left to the device.

import * as store from "./store.js";

const TEXTS = ["model", "system"];
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

const dialog = document.getElementById("settings");
const fields = document.getElementById("settings-form").elements;

let settings = store.loadSettings();

/** The fields of a request, without its messages. */
export function sampling() {
  const { system, ...rest } = settings;
  return rest;
}

/** The turns that begin each conversation. */
export function beginning() {
  return settings.system ? [{ role: "system", content: settings.system }] : [];
}

/** Opens the dialog, at one field if it is named. */
export function showSettings(focus) {
  for (const name of [...TEXTS, ...NUMBERS]) fields[name].value = settings[name] ?? "";
  fields.key.value = store.loadKey();
  if (!dialog.open) dialog.showModal();
  if (focus) fields[focus].focus();
}

/** Offers the device's models, if there are several: adapters are models of their own. */
export function offerModels(names) {
  document.getElementById("model-row").hidden = names.length < 2;
  fields.model.replaceChildren(...names.map((name) => new Option(name, name)));
  // Of a release that is not there any more.
  if (!names.includes(settings.model)) delete settings.model;
}

document.getElementById("cancel").addEventListener("click", () => dialog.close());

/** Calls back once settings are saved, saying whether the browser keeps them. */
export function onSaved(callback) {
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "save") callback(save());
    dialog.returnValue = "";
  });
}

function save() {
  settings = {};
  for (const name of TEXTS) if (fields[name].value.trim()) settings[name] = fields[name].value;
  for (const name of NUMBERS) if (fields[name].value) settings[name] = fields[name].valueAsNumber;
  store.saveKey(fields.key.value.trim());
  return store.saveSettings(settings);
}

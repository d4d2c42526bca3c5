// The settings dialog. Empty fields use the device's defaults.

import * as store from "./store.js";

const TEXTS = ["model", "system"];
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

const dialog = document.getElementById("settings");
const fields = document.getElementById("settings-form").elements;

let settings = store.loadSettings();

/** Returns the fields of a request, without its messages. */
export function sampling() {
  const { system, ...rest } = settings;
  return rest;
}

/** Returns the turns that begin each conversation. */
export function beginning() {
  return settings.system ? [{ role: "system", content: settings.system }] : [];
}

/** Opens the dialog, with the focus on a field if one is named. */
export function showSettings(focus) {
  for (const name of [...TEXTS, ...NUMBERS]) fields[name].value = settings[name] ?? "";
  fields.key.value = store.loadKey();
  if (!dialog.open) dialog.showModal();
  if (focus) fields[focus].focus();
}

/** Lists the device's models if there are several: each adapter counts as a model. */
export function offerModels(names) {
  document.getElementById("model-row").hidden = names.length < 2;
  fields.model.replaceChildren(...names.map((name) => new Option(name, name)));
  // A model of an earlier release.
  if (!names.includes(settings.model)) delete settings.model;
}

/** Calls back when settings are saved, with whether the browser could store them. */
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

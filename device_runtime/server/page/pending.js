// The pictures of the next message: chosen, taken, dropped or pasted; shown above its text. A
// recording that is dropped or pasted becomes text.

import { hears, writeDown } from "./dictation.js";
import { button, thumbnail } from "./message.js";
import { announce, complain } from "./notice.js";
import { scaled } from "./picture.js";

/** The device takes no more in a request, which has the whole conversation. */
const MOST = 8;

const at = (id) => document.getElementById(id);
const list = at("pictures");

let pictures = [];
let allowed = false;
/** Settles when all files so far are scaled. */
let scaling = Promise.resolve();

/** Offers to add pictures, unless the model takes text alone. */
export function allowPictures(sees) {
  allowed = sees;
  at("choose").hidden = !sees;
  at("camera").hidden = !sees;
}

/** Waits until all files so far are scaled. */
export async function picturesReady() {
  await scaling;
}

/** Returns the pictures; there are none any more. */
export function takePictures() {
  const taken = pictures;
  show([]);
  return taken;
}

/** Adds pictures that were taken, before those that came since; not those that are lost. */
export function putBack(taken) {
  show([...taken.filter(({ url }) => url), ...pictures]);
}

/**
 * Has the page take pictures from now on.
 *
 * `sent` returns how many pictures the conversation has already; `added` is called each time.
 */
export function acceptPictures(sent, added) {
  const add = (files) => {
    const recording = [...files].find(({ type }) => type.startsWith("audio/"));
    if (recording) {
      writeDown(recording, `${recording.name} cannot be opened as a recording.`);
      return;
    }
    const copies = [...files];
    scaling = scaling.then(() => addFiles(copies, sent)).then(added);
  };
  for (const name of ["choose", "camera"]) {
    const input = at(`${name}-input`);
    at(name).addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      add(input.files);
      // The same file can be chosen again.
      input.value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData;
    // Office programs copy a picture of the text with the text; with a file, some systems its name.
    const text = types.includes("text/plain") && types.includes("text/html");
    if (text || !files.length) return;
    event.preventDefault();
    add(files);
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    // Else the browser would leave the page to show the file, also where the model takes text alone.
    event.preventDefault();
    document.body.classList.toggle("dropping", allowed || hears());
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
}

async function addFiles(files, sent) {
  complain(allowed ? "" : "This model takes text alone: it cannot see pictures.");
  if (!allowed) return;
  for (const file of files) {
    if (sent() + pictures.length >= MOST) {
      complain(`A chat takes up to ${MOST} pictures. Start a new chat for more.`);
      return;
    }
    try {
      const picture = await scaled(file);
      show([...pictures, picture]);
      announce(`Added ${file.name}`);
    } catch {
      complain(`${file.name} cannot be opened as a picture. Use a JPEG, PNG or WebP file.`);
    }
  }
}

function show(others) {
  pictures = others;
  list.replaceChildren(...pictures.map(pending));
  list.hidden = !pictures.length;
}

function pending(picture) {
  const remove = button("✕", "remove");
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.addEventListener("click", () => {
    const place = pictures.indexOf(picture);
    show(pictures.filter((other) => other !== picture));
    const left = list.querySelectorAll(".remove");
    (left[Math.min(place, left.length - 1)] ?? at("choose")).focus();
  });
  const item = document.createElement("li");
  item.append(thumbnail(picture, picture.name), remove);
  return item;
}

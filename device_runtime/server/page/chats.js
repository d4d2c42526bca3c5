// The dialog with the saved chats.

import { button } from "./message.js";
import { complain } from "./notice.js";
import { loadPictures, savePictures } from "./picture_store.js";
import * as store from "./store.js";

const at = (id) => document.getElementById(id);
const dialog = at("chats");

/**
 * Returns a function that shows the dialog.
 *
 * `current` returns the chat that is open, `open` opens another one: null for a new one.
 */
export function chatsDialog(current, open) {
  let undo = null;

  function list() {
    const chats = store.loadChats();
    at("no-chats").hidden = chats.length > 0;
    at("chat-list").replaceChildren(...chats.map(listed));
    at("deleted").hidden = undo === null;
  }

  function listed(kept) {
    const show = button(kept.title || "Untitled", "open");
    if (kept.id === current().id) show.setAttribute("aria-current", "true");
    show.addEventListener("click", async () => {
      dialog.close();
      if (kept.id !== current().id) await open(kept);
    });
    const remove = button("Delete", "delete");
    remove.setAttribute("aria-label", `Delete ${show.textContent}`);
    remove.addEventListener("click", () => deleteChat(kept));
    const item = document.createElement("li");
    item.append(show, remove);
    return item;
  }

  async function deleteChat(kept) {
    const wasOpen = kept.id === current().id;
    const deleted = wasOpen ? current() : kept;
    await loadPictures(deleted);
    if (wasOpen) await open(null);
    store.deleteChat(kept.id);
    undo = async () => {
      undo = null;
      const saved = store.saveChat(deleted) && (await savePictures(deleted));
      if (!saved) complain("There is no space for it in this browser's storage.");
      if (wasOpen && !current().messages.length) await open(deleted);
      list();
      dialog.querySelector(".close").focus();
    };
    at("deleted-title").textContent = `Deleted: ${kept.title || "Untitled"}`;
    list();
    at("undo").focus();
  }

  at("undo").addEventListener("click", () => undo());
  return () => {
    list();
    dialog.showModal();
  };
}

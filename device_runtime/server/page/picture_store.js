// The pictures of saved conversations, in IndexedDB: localStorage has room for a few at most.
//
// As with the text, storage may be disabled, full, or written by another program or version.

const PICTURES = "pictures";

/** Ids of pictures that need not be written again. */
const written = new Set();
let opening = null;

/** Returns the pictures of a conversation. */
export function picturesOf(chat) {
  return chat.messages.flatMap((message) => message.pictures ?? []);
}

/** Saves the pictures of a conversation that are not saved yet; returns whether that worked. */
export async function savePictures(chat) {
  const unwritten = picturesOf(chat).filter(({ id, url }) => url && !written.has(id));
  if (!unwritten.length) return true;
  for (const { id } of unwritten) written.add(id);
  try {
    await run("readwrite", (store) => {
      for (const { id, url } of unwritten) store.put({ chat: chat.id, id, url });
    });
    return true;
  } catch {
    for (const { id } of unwritten) written.delete(id);
    return false;
  }
}

/** Loads the pictures of a saved conversation into it; without a `url` are those not saved. */
export async function loadPictures(chat) {
  const pictures = picturesOf(chat);
  if (!pictures.length) return;
  const records = await run("readonly", (store) => store.getAll(range(chat.id))).catch(() => []);
  const urls = new Map(records.map(({ id, url }) => [id, url]));
  for (const picture of pictures) {
    const url = urls.get(picture.id);
    if (typeof url === "string" && url.startsWith("data:image/")) picture.url ??= url;
  }
}

/** Deletes the pictures of a conversation. */
export async function deletePictures(id) {
  // Which of them were its pictures does not matter: writing one twice does no harm.
  written.clear();
  // What cannot be opened holds no pictures.
  await run("readwrite", (store) => store.delete(range(id))).catch(() => {});
}

/** Returns the range of the keys of a conversation: an array sorts after all texts. */
function range(id) {
  return IDBKeyRange.bound([id], [id, []]);
}

/** Returns the result of a request, once its transaction is complete. */
async function run(mode, action) {
  const transaction = (await database()).transaction(PICTURES, mode);
  const request = action(transaction.objectStore(PICTURES));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

function database() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("edgepack", 1);
    request.onupgradeneeded = () =>
      request.result.createObjectStore(PICTURES, { keyPath: ["chat", "id"] });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

// The page: a conversation.

import { isEmpty, newAnswer, receive, summary } from "./answer.js";
import { chatsDialog } from "./chats.js";
import { refresh, usedMemory, watch } from "./device.js";
import { acceptSpeech } from "./dictation.js";
import { ShownAnswer, copy, messageElement, showLarge, toggleDetails } from "./message.js";
import { announce, complain } from "./notice.js";
import { acceptPictures, picturesReady, putBack, takePictures } from "./pending.js";
import { loadPictures, picturesOf, savePictures } from "./picture_store.js";
import { beginning, onSaved, sampling, showSettings } from "./settings.js";
import * as store from "./store.js";

const SAVE_EVERY_MS = 1000;
const NEAR_END_PX = 60;
const CONTINUED = { continue_final_message: true, add_generation_prompt: false };

const at = (id) => document.getElementById(id);
const log = at("log");
const question = at("question");
const empty = at("empty");
// There, a focused field brings up a keyboard that hides half of the page.
const touch = matchMedia("(pointer: coarse)");

let chat;
/** The answer in progress: its AbortController, and a promise of its end. */
let running = null;

function newChat() {
  return { id: store.newId(), title: "", updated: 0, messages: [] };
}

/** Opens a chat; null for a new one. */
async function openChat(opened) {
  await stop();
  if (opened) await loadPictures(opened);
  chat = opened ?? newChat();
  const elements = chat.messages.map((message) => messageElement(message));
  log.replaceChildren(...(elements.length ? elements : [empty]));
  showState();
  complain("");
  log.scrollTop = log.scrollHeight;
  focusQuestion();
}

function focusQuestion() {
  if (!touch.matches) question.focus();
}

async function keep() {
  chat.updated = Date.now();
  const [{ content, pictures }] = chat.messages;
  chat.title ||= content.trim().slice(0, 80) || (pictures?.[0]?.name ?? "");
  const saved = store.saveChat(chat);
  const lost = !saved ? "chat" : (await savePictures(chat)) ? "" : "pictures";
  if (lost) complain(`The ${lost} cannot be saved: this browser's storage is full or disabled.`);
}

async function ask(text, pictures) {
  complain("");
  empty.remove();
  const message = { role: "user", content: text, pictures };
  chat.messages.push(message);
  log.append(messageElement(message));
  keep();
  await answer();
}

/** Requests the answer to the last message, or more of the answer that is the last message. */
async function answer() {
  const continues = chat.messages.at(-1).role === "assistant";
  const body = { ...sampling(), messages: [...beginning(), ...chat.messages.map(turn)] };
  if (continues) Object.assign(body, CONTINUED);
  else chat.messages.push(newAnswer());
  const message = chat.messages.at(-1);
  const known = message.content.length;
  const shown = new ShownAnswer(message);
  if (continues) log.lastElementChild.remove();
  log.append(shown.element);
  shown.update();
  log.scrollTop = log.scrollHeight;

  let frame = 0;
  let saved = performance.now();
  const draw = () => {
    frame = 0;
    following(() => shown.update());
  };
  const grew = () => {
    frame ||= requestAnimationFrame(draw);
    // A closed tab must not lose much.
    if (performance.now() - saved > SAVE_EVERY_MS) {
      saved = performance.now();
      keep();
    }
  };
  const controller = new AbortController();
  const ended = receive(message, body, store.loadKey(), controller.signal, grew).catch((e) => e);
  running = { controller, ended: ended.then(() => {}) };
  showState();
  const error = await ended;
  cancelAnimationFrame(frame);
  running = null;
  if (error && isEmpty(message)) {
    takeBack(shown.element);
  } else {
    message.figures.memory = usedMemory();
    following(() => shown.finish());
    announce(`${message.content.slice(known)}\n${summary(message)}`);
  }
  if (chat.messages.length) keep();
  else store.deleteChat(chat.id);
  showState();
  if (error && error.name !== "AbortError") explain(error);
  refresh();
}

/** Returns a message as it is sent: a picture that was not saved is left out. */
function turn({ role, content, pictures = [] }) {
  const parts = pictures
    .filter(({ url }) => url)
    .map(({ url }) => ({ type: "image_url", image_url: { url } }));
  if (!parts.length) return { role, content };
  if (content.trim()) parts.push({ type: "text", text: content });
  return { role, content: parts };
}

/** Puts a question without an answer back into the input field, to be sent again. */
function takeBack(element) {
  element.remove();
  log.lastElementChild.remove();
  const [unanswered] = chat.messages.splice(-2);
  question.value ||= unanswered.content;
  grow();
  putBack(unanswered.pictures);
  if (!chat.messages.length) log.append(empty);
}

/** Changes the log; keeps the end in view if it was, else keeps the scroll position. */
function following(change) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
  change();
  if (follows) log.scrollTop = log.scrollHeight;
}

/** Stops the answer in progress, if any; its text so far stays. */
async function stop() {
  running?.controller.abort();
  await running?.ended;
}

/** Shows the buttons that apply now. */
function showState() {
  const focused = document.activeElement;
  at("send").hidden = running !== null;
  at("stop").hidden = running === null;
  for (const choice of log.querySelectorAll(".again, .continue")) {
    choice.hidden = running !== null || choice.closest("article") !== log.lastElementChild;
  }
  if (focused !== at("send") && focused !== at("stop")) return;
  if (touch.matches) at(running ? "stop" : "send").focus();
  else question.focus();
}

function explain(error) {
  complain(error.message);
  if (error.status === 401) showSettings("key");
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

async function onLogClick({ target }) {
  const article = target.closest("article");
  let copied = true;
  if (target.matches(".again") && !running) {
    chat.messages.pop();
    article.remove();
    complain("");
    await answer();
  } else if (target.matches(".continue") && !running) {
    complain("");
    await answer();
  } else if (target.matches(".example")) {
    await ask(target.textContent, []);
  } else if (target.matches(".details")) {
    toggleDetails(target);
  } else if (target.closest(".picture")) {
    showLarge(target.closest(".picture"));
  } else if (target.matches(".copy-code")) {
    const code = target.closest(".code").querySelector("code");
    copied = await copy(target, code.textContent, code);
  } else if (target.matches(".copy-answer")) {
    const { content } = chat.messages[[...log.children].indexOf(article)];
    copied = await copy(target, content, article.querySelector(".text"));
  }
  if (!copied) complain("The browser does not allow copying here. The text is selected: press Ctrl+C.");
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  await picturesReady();
  if (running) return;
  const text = question.value;
  const pictures = takePictures();
  if (!text.trim() && !pictures.length) return;
  question.value = "";
  grow();
  await ask(text, pictures);
});
// Before the other use of Escape.
acceptSpeech(explain);
question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  // While an input method is composing, Enter selects a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open], :popover-open")) stop();
});
at("stop").addEventListener("click", stop);
at("menu").addEventListener("click", () => at("menu").togglePopover(false));
at("new").addEventListener("click", () => openChat(null));
at("show-chats").addEventListener("click", chatsDialog(() => chat, openChat));
at("show-settings").addEventListener("click", () => showSettings());
log.addEventListener("click", onLogClick);
acceptPictures(() => picturesOf(chat).filter(({ url }) => url).length, focusQuestion);
onSaved((kept) => {
  complain(kept ? "" : "Settings cannot be saved: this browser's storage is full or disabled.");
  refresh();
});

await openChat(store.loadChats()[0] ?? null);
watch();

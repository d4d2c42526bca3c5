// The elements of messages, with their buttons.

import { details, summary } from "./answer.js";
import { LiveMarkdown, scroller } from "./markdown.js";

/** Returns the element of a message that does not change. */
export function messageElement(message) {
  if (message.role === "user") {
    const { element, text } = article("user", "You");
    text.textContent = message.content;
    if (message.pictures.length) text.before(picturesElement(message.pictures));
    return element;
  }
  const shown = new ShownAnswer(message);
  shown.finish();
  return shown.element;
}

/** An answer's element, which follows the answer as it grows. */
export class ShownAnswer {
  #message;
  #text;
  #live;
  #thinking = null;
  #calls = [];

  constructor(message) {
    this.#message = message;
    const { element, text } = article("assistant", "Model");
    this.element = element;
    element.setAttribute("aria-busy", "true");
    this.#text = text;
    this.#live = new LiveMarkdown(text);
  }

  /** Shows what has come so far. */
  update() {
    const { content, reasoning, calls } = this.#message;
    this.#live.update(content);
    if (reasoning) {
      this.#thinking ??= this.#folded("Thinking", "thinking");
      this.#thinking.textContent = reasoning;
    }
    for (const [i, call] of calls.entries()) {
      this.#calls[i] ??= this.#folded(`Tool call: ${call.name}`, "call");
      this.#calls[i].textContent = call.arguments;
    }
  }

  /** Shows the whole answer, and adds the footer. */
  finish() {
    this.update();
    this.element.removeAttribute("aria-busy");
    const figures = element("span", summary(this.#message));
    const more = element("p", details(this.#message));
    more.hidden = true;
    const show = button("Details", "details");
    show.setAttribute("aria-expanded", "false");
    show.hidden = !more.textContent;
    const footer = document.createElement("footer");
    footer.append(figures);
    const { finish, content } = this.#message;
    if (finish === "length" && content) footer.append(button("Continue", "continue"));
    footer.append(button("Copy", "copy-answer"), button("Try again", "again"), show, more);
    this.element.append(footer);
  }

  /** Adds a folded part; what the model did before it answered is above the text. */
  #folded(title, name) {
    const part = document.createElement("details");
    part.className = name;
    const text = scroller(element("pre", ""), title);
    part.append(element("summary", title), text);
    if (name === "thinking") this.#text.before(part);
    else this.element.append(part);
    return text;
  }
}

/** Shows or hides what a "Details" button is for. */
export function toggleDetails(pressed) {
  const more = pressed.nextElementSibling;
  more.hidden = !more.hidden;
  pressed.setAttribute("aria-expanded", String(!more.hidden));
}

/** Creates a button that does not submit a form. */
export function button(label, name) {
  const created = element("button", label);
  created.type = "button";
  created.className = name;
  return created;
}

/** Copies a text; if the browser forbids that, selects the element that shows it. */
export async function copy(pressed, text, shown) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine, a page has no access to the clipboard.
    getSelection().selectAllChildren(shown);
    return false;
  }
  const label = pressed.textContent;
  pressed.textContent = "Copied";
  setTimeout(() => (pressed.textContent = label), 1500);
  return true;
}

/** Creates a picture's image. */
export function thumbnail(picture, alt) {
  const image = document.createElement("img");
  image.src = picture.url;
  image.alt = alt;
  // Dropped on the page it is shown on, it would be sent once more.
  image.draggable = false;
  return image;
}

/** Shows the picture of a button as large as the window allows. */
export function showLarge(pressed) {
  const large = document.getElementById("large");
  large.querySelector("h2").textContent = pressed.title;
  const image = large.querySelector("img");
  image.src = pressed.firstElementChild.src;
  image.alt = pressed.title;
  large.showModal();
}

function picturesElement(pictures) {
  const row = document.createElement("div");
  row.className = "pictures";
  for (const picture of pictures) {
    if (picture.url) {
      const show = button("", "picture");
      show.title = picture.name;
      show.setAttribute("aria-label", `Enlarge ${picture.name}`);
      show.append(thumbnail(picture, ""));
      row.append(show);
    } else {
      row.append(element("p", `${picture.name} was not saved.`));
    }
  }
  return row;
}

function article(name, speaker) {
  const whole = document.createElement("article");
  whole.className = name;
  const author = element("h2", speaker);
  author.className = "unseen";
  const text = element("div", "");
  text.className = "text";
  whole.append(author, text);
  return { element: whole, text };
}

function element(tag, text) {
  const created = document.createElement(tag);
  created.textContent = text;
  return created;
}

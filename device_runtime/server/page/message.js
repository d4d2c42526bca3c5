// The elements of messages, with their buttons.

import { summary } from "./answer.js";
import { LiveMarkdown } from "./markdown.js";

/** Creates the element of a message; an answer gets a footer unless it is `growing`. */
export function messageElement(message, growing = false) {
  const element = document.createElement("article");
  element.className = message.role;
  const author = document.createElement("h2");
  author.className = "unseen";
  author.textContent = message.role === "user" ? "You" : "Model";
  const text = document.createElement("div");
  text.className = "text";
  element.append(author, text);
  if (message.role === "user") text.textContent = message.content;
  else if (!growing) finish(element, message, new LiveMarkdown(text));
  return element;
}

/** Shows the whole answer in its element, and adds the footer. */
export function finish(element, message, live) {
  live.update(message.content);
  const figures = document.createElement("span");
  figures.textContent = summary(message);
  const footer = document.createElement("footer");
  footer.append(figures, button("Copy", "copy-answer"), button("Try again", "again"));
  element.append(footer);
}

/** Creates a button that does not submit a form. */
export function button(label, name) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = name;
  element.textContent = label;
  return element;
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

// The elements of messages, and of what can be done with them.

import { summary } from "./answer.js";
import { LiveMarkdown } from "./markdown.js";

/** The element of a message; an answer's has a footer unless it is `growing`. */
export function messageElement(message, growing = false) {
  const element = document.createElement("article");
  element.className = message.role;
  const who = document.createElement("h2");
  who.className = "unseen";
  who.textContent = message.role === "user" ? "You" : "Model";
  const text = document.createElement("div");
  text.className = "text";
  element.append(who, text);
  if (message.role === "user") text.textContent = message.content;
  else if (!growing) finish(element, message, new LiveMarkdown(text));
  return element;
}

/** Shows the whole answer in the element made for it, and its footer. */
export function finish(element, message, live) {
  live.update(message.content);
  const figures = document.createElement("span");
  figures.textContent = summary(message);
  const footer = document.createElement("footer");
  footer.append(figures, button("Copy", "copy-answer"), button("Try again", "again"));
  element.append(footer);
}

/** A button that is no form's. */
export function button(label, name) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = name;
  made.textContent = label;
  return made;
}

/** Copies a text; where the browser forbids that, selects the element that shows it. */
export async function copy(pressed, text, shown) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine, a page has no clipboard.
    getSelection().selectAllChildren(shown);
    return false;
  }
  const label = pressed.textContent;
  pressed.textContent = "Copied";
  setTimeout(() => (pressed.textContent = label), 1500);
  return true;
}

// Markdown to DOM nodes: the part of CommonMark and GitHub's tables that language models write.
//
// The input is untrusted. Text only ever becomes text nodes, elements come from the fixed set
// below, and the only attribute with text from outside is a link's address, http or https. Images
// become links: loading one could leak the conversation to its server. No step takes more than
// linear time in the text, apart from nesting, which is bounded.

import { parseInline } from "./inline.js";

const DEEPEST = 8;

const FENCE = /^( {0,3})(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: {1,4}(?=\S)|[ \t]|$)/;
const ALIGNMENT = /^(:?)-+(:?)$/;

/** Text that grows at its end, shown in an element; only what may have changed is rebuilt. */
export class LiveMarkdown {
  #target;
  #settled = 0;
  #tail = [];

  constructor(target) {
    this.#target = target;
  }

  /** Shows the whole text, which must begin with the text shown before. */
  update(text) {
    const rest = text.slice(this.#settled);
    const blocks = parseBlocks(rest.split("\n"), 0);
    const starts = lineStarts(rest, blocks);
    const tail = blocks.map((block, i) => {
      const source = rest.slice(starts[i], starts[i + 1]);
      return this.#shown(this.#tail[i], block, source);
    });
    for (const { node } of this.#tail.slice(tail.length)) node.remove();
    // The last line may be incomplete: once complete, it may continue the block before its own,
    // but no earlier one.
    const settled = Math.max(0, blocks.length - 2);
    this.#settled += settled ? starts[settled] : 0;
    this.#tail = tail.slice(settled);
  }

  #shown(old, block, source) {
    if (old?.source === source) return old;
    if (old?.block.type === "code" && block.type === "code" && old.block.lang === block.lang) {
      old.node.querySelector("code").textContent = block.text;
      return { block, source, node: old.node };
    }
    const node = render(block);
    if (old) old.node.replaceWith(node);
    else this.#target.append(node);
    return { block, source, node };
  }
}

function lineStarts(text, blocks) {
  const starts = [];
  let offset = 0;
  let line = 0;
  for (const block of blocks) {
    for (; line < block.line; line++) offset = text.indexOf("\n", offset) + 1;
    starts.push(offset);
  }
  return [...starts, text.length];
}

/** Parses lines into blocks; each has the number of its first line. */
export function parseBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const [block, next] = readBlock(lines, at, depth);
    blocks.push({ ...block, line: at });
    at = next;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, at, fence);
  if (indent(line) >= 4) return readIndentedCode(lines, at);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = line.slice(heading[0].length).trim();
    return [{ type: "heading", level: heading[1].length, text: withoutClosing(text) }, at + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return readQuote(lines, at, depth);
    if (ITEM.test(line)) return readList(lines, at, depth);
  }
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

function readFence(lines, at, [, margin, mark, info]) {
  const text = [];
  let next = at + 1;
  for (; next < lines.length; next++) {
    const line = lines[next].trim();
    if (line.length >= mark.length && line === mark[0].repeat(line.length)) {
      next++;
      break;
    }
    text.push(lines[next].slice(Math.min(margin.length, indent(lines[next]))));
  }
  return [{ type: "code", lang: info.trim().split(" ", 1)[0], text: text.join("\n") }, next];
}

function readIndentedCode(lines, at) {
  let next = at;
  while (next < lines.length && indent(lines[next]) >= 4 && !isBlank(lines[next])) next++;
  const text = lines.slice(at, next).map((line) => line.slice(4));
  return [{ type: "code", lang: "", text: text.join("\n") }, next];
}

function readQuote(lines, at, depth) {
  let next = at;
  while (next < lines.length && QUOTE.test(lines[next])) next++;
  const inner = lines.slice(at, next).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: parseBlocks(inner, depth + 1) }, next];
}

/** Parses a list; more lenient than CommonMark: two spaces indent, whatever the marker's width. */
function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const margin = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let item = null;
  let blanks = 0;
  let loose = false;
  let next = at;
  for (; next < lines.length; next++) {
    const line = lines[next];
    if (isBlank(line)) {
      blanks++;
      continue;
    }
    const match = ITEM.exec(line);
    const inside = item && indent(line) >= margin + 2;
    if (match && !inside && !RULE.test(line)) {
      if (/\d/.test(match[2]) !== ordered) break;
      loose ||= blanks > 0;
      item = { lines: [line.slice(match[0].length)], width: match[0].length };
      items.push(item);
    } else if (inside) {
      loose ||= blanks > 0;
      for (; blanks; blanks--) item.lines.push("");
      item.lines.push(line.slice(Math.min(indent(line), item.width)));
    } else if (!blanks && !startsBlock(lines, next)) {
      item.lines.push(line);
    } else {
      break;
    }
    blanks = 0;
  }
  const list = { type: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, loose };
  return [{ ...list, items: items.map((item) => parseBlocks(item.lines, depth + 1)) }, next];
}

function startsTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !lines[at + 1].includes("-")) {
    return false;
  }
  const rule = cells(lines[at + 1]);
  return rule.every((cell) => ALIGNMENT.test(cell)) && rule.length === cells(lines[at]).length;
}

function readTable(lines, at) {
  const align = cells(lines[at + 1]).map((cell) => {
    const [, left, right] = ALIGNMENT.exec(cell);
    return right ? (left ? "center" : "right") : "left";
  });
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|"); next++) {
    const row = cells(lines[next]);
    rows.push(align.map((_, i) => row[i] ?? ""));
  }
  return [{ type: "table", align, head: cells(lines[at]), rows }, next];
}

/** Splits a row into cells at each `|` that does not follow a backslash. */
function cells(line) {
  const row = [];
  let cell = "";
  const text = line.trim();
  for (let i = text[0] === "|" ? 1 : 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") cell += text[++i];
    else if (text[i] === "|") {
      row.push(cell.trim());
      cell = "";
    } else cell += text[i];
  }
  if (cell.trim() || !text.endsWith("|")) row.push(cell.trim());
  return row;
}

function readParagraph(lines, at) {
  let next = at + 1;
  while (next < lines.length && !isBlank(lines[next]) && !startsBlock(lines, next)) next++;
  const text = lines.slice(at, next).map((line) => line.trim());
  return [{ type: "paragraph", text: text.join("\n") }, next];
}

/** Returns whether a line ends the paragraph before it; of numbers only 1: others may be years. */
function startsBlock(lines, at) {
  const line = lines[at];
  const item = ITEM.exec(line);
  return (
    FENCE.test(line) ||
    HEADING.test(line) ||
    RULE.test(line) ||
    QUOTE.test(line) ||
    (item && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1)) ||
    startsTable(lines, at)
  );
}

function indent(line) {
  let width = 0;
  while (line[width] === " ") width++;
  return width;
}

function isBlank(line) {
  return line.trim() === "";
}

/** Strips the closing marks of a heading, as in `## Heading ##`. */
function withoutClosing(text) {
  let end = text.length;
  while (text[end - 1] === "#") end--;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trim() : text;
}

function render(block) {
  switch (block.type) {
    case "code":
      return codeBlock(block.lang, block.text);
    case "heading":
      // The page has a first-level heading of its own.
      return element(`h${Math.min(block.level + 1, 6)}`, parseInline(block.text));
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", block.blocks.map(render));
    case "list":
      return renderList(block);
    case "table":
      return renderTable(block);
    default:
      return element("p", parseInline(block.text));
  }
}

/** Creates a bar with the language and a button that chat.js listens to, and the code. */
function codeBlock(lang, text) {
  const copy = element("button", ["Copy"]);
  copy.type = "button";
  copy.className = "copy-code";
  copy.setAttribute("aria-label", "Copy code");
  const bar = element("div", [element("span", [lang]), copy]);
  bar.className = "bar";
  const code = scroller(element("pre", [element("code", [text])]), "Code");
  const block = element("div", [bar, code]);
  block.className = "code";
  return block;
}

function renderList({ ordered, start, loose, items }) {
  const list = element(ordered ? "ol" : "ul");
  if (ordered && start !== 1) list.start = start;
  for (const blocks of items) {
    const tight = (block) => block.type === "paragraph" && !loose;
    const content = blocks.flatMap((block) =>
      tight(block) ? parseInline(block.text) : [render(block)],
    );
    list.append(element("li", content));
  }
  return list;
}

function renderTable({ align, head, rows }) {
  const row = (tag, texts) =>
    element(
      "tr",
      texts.map((text, i) => {
        const cell = element(tag, parseInline(text));
        cell.className = align[i];
        if (tag === "th") cell.scope = "col";
        return cell;
      }),
    );
  const table = element("table", [
    element("thead", [row("th", head)]),
    element(
      "tbody",
      rows.map((texts) => row("td", texts)),
    ),
  ]);
  // Wide tables scroll by themselves, not the page.
  const frame = scroller(element("div", [table]), "Table");
  frame.className = "table";
  return frame;
}

/** Lets the keyboard reach an element that may have to be scrolled. */
export function scroller(element, name) {
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", name);
  return element;
}

function element(tag, children = []) {
  const element = document.createElement(tag);
  for (const child of children) element.append(child);
  return element;
}

// The inline part of Markdown: emphasis, code, links. Returns DOM nodes.

const PUNCTUATION = /[!-/:-@[-`{-~\p{P}\p{S}]/u;
const SPACE = /\s/;
const LONGEST_ADDRESS = 2048;
// Bounded, because a failed search is repeated at the next sign of an address.
const ADDRESS = /https?:\/\/[^\s<>[\]`*|"]{1,2048}/y;
const BRACKETED = /<(https?:\/\/[^\s<>]{1,2048})>/y;
const DESTINATION =
  /^\(\s{0,3}<?([^\s<>()]*(?:\([^\s()]*\)[^\s<>()]*)*)>?(?:\s{1,3}(?:"[^"]*"|'[^']*'))?\s{0,3}\)/;
// Maximum nesting of elements; deeper ones stay text. Limits the depth of the page's tree.
const DEEPEST = 12;

/** Returns an http or https address, else null: other schemes can hide scripts or data. */
export function webAddress(text) {
  if (text.length > LONGEST_ADDRESS) return null;
  try {
    const url = new URL(text);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

/** Returns the DOM nodes of one paragraph's text. */
export function parseInline(text) {
  return new Inline(text).nodes();
}

class Inline {
  #text;
  #at = 0;
  // Pieces: {node, depth} or delimiters {mark, count, opens, closes} that may become elements.
  #pieces = [];
  #plain = "";
  #brackets = [];
  #unclosed = new Set();

  constructor(text) {
    this.#text = text;
  }

  nodes() {
    const text = this.#text;
    while (this.#at < text.length) {
      const char = text[this.#at];
      const read = READERS[char];
      if (read === undefined || !this[read](char)) {
        this.#plain += char;
        this.#at++;
      }
    }
    this.#flush();
    return this.#emphasized(0).map((piece) => piece.node);
  }

  #flush() {
    if (this.#plain) this.#add(document.createTextNode(this.#plain));
    this.#plain = "";
  }

  #add(node, depth = 0) {
    this.#pieces.push({ node, depth });
  }

  #addElement(node) {
    this.#flush();
    this.#add(node, 1);
  }

  escape() {
    const next = this.#text[this.#at + 1];
    if (next === undefined || !/[!-/:-@[-`{-~]/.test(next)) return false;
    this.#plain += next;
    this.#at += 2;
    return true;
  }

  lineBreak() {
    this.#plain = this.#plain.trimEnd();
    this.#addElement(document.createElement("br"));
    this.#at++;
    return true;
  }

  code() {
    const text = this.#text;
    const length = this.#run("`");
    const end = this.#unclosed.has(length) ? -1 : closing(text, this.#at + length, length);
    if (end < 0) {
      this.#unclosed.add(length);
      this.#plain += "`".repeat(length);
      this.#at += length;
      return true;
    }
    let inner = text.slice(this.#at + length, end).replaceAll("\n", " ");
    if (inner.startsWith(" ") && inner.endsWith(" ") && inner.trim()) inner = inner.slice(1, -1);
    const node = document.createElement("code");
    node.textContent = inner;
    this.#addElement(node);
    this.#at = end + length;
    return true;
  }

  #run(char) {
    let length = 0;
    while (this.#text[this.#at + length] === char) length++;
    return length;
  }

  delimiter(char) {
    const count = this.#run(char);
    if (char === "~" && count !== 2) {
      this.#plain += char.repeat(count);
      this.#at += count;
      return true;
    }
    const before = this.#text[this.#at - 1] ?? " ";
    const after = this.#text[this.#at + count] ?? " ";
    // CommonMark's left- and right-flanking delimiter runs.
    const left = flanks(after, before);
    const right = flanks(before, after);
    const inWord = char === "_" && left && right;
    this.#flush();
    this.#pieces.push({
      mark: char,
      count,
      opens: left && (!inWord || PUNCTUATION.test(before)),
      closes: right && (!inWord || PUNCTUATION.test(after)),
    });
    this.#at += count;
    return true;
  }

  openBracket() {
    const image = this.#text[this.#at] === "!";
    if (image && this.#text[this.#at + 1] !== "[") return false;
    const mark = image ? "![" : "[";
    this.#flush();
    this.#brackets.push(this.#pieces.length);
    this.#add(document.createTextNode(mark));
    this.#at += mark.length;
    return true;
  }

  closeBracket() {
    const opened = this.#brackets.pop();
    if (opened === undefined) return false;
    const match = DESTINATION.exec(this.#text.slice(this.#at + 1, this.#at + 1 + LONGEST_ADDRESS));
    const href = match && webAddress(match[1]);
    if (!href) return false;
    this.#flush();
    const inner = this.#emphasized(opened + 1);
    this.#pieces.length = opened;
    this.#brackets = [];
    const label = document.createDocumentFragment();
    for (const { node } of inner) label.append(node);
    // An address in a label is not a link of its own.
    for (const nested of label.querySelectorAll("a")) nested.replaceWith(...nested.childNodes);
    if (!label.textContent.trim()) label.append(href);
    this.#pieces.push({ node: link(href, label), depth: 1 + deepest(inner) });
    this.#at += 1 + match[0].length;
    return true;
  }

  bracketedAddress() {
    BRACKETED.lastIndex = this.#at;
    const match = BRACKETED.exec(this.#text);
    const href = match && webAddress(match[1]);
    if (!href) return false;
    this.#addElement(link(href, match[1]));
    this.#at += match[0].length;
    return true;
  }

  address() {
    if (/[\p{L}\p{N}]/u.test(this.#text[this.#at - 1] ?? " ")) return false;
    ADDRESS.lastIndex = this.#at;
    const match = ADDRESS.exec(this.#text);
    if (!match) return false;
    const shown = withoutPunctuation(match[0]);
    const href = match[0].length < LONGEST_ADDRESS && webAddress(shown);
    if (!href) return false;
    this.#addElement(link(href, shown));
    this.#at += shown.length;
    return true;
  }

  /** Removes the pieces from an index on, and turns matching delimiters into elements. */
  #emphasized(from) {
    const done = [];
    const openers = { "*": [], _: [], "~": [] };
    for (const piece of this.#pieces.splice(from)) {
      if (piece.mark === undefined) {
        done.push(piece);
        continue;
      }
      const stack = openers[piece.mark];
      while (piece.closes && piece.count && stack.length) {
        const start = stack.at(-1);
        // Delimiters opened in between stay text.
        for (const other of Object.values(openers)) {
          while (other.length && other.at(-1) > start) other.pop();
        }
        const opener = done[start];
        const inner = done.splice(start + 1);
        const depth = 1 + deepest(inner);
        if (!inner.length || depth > DEEPEST) {
          for (const other of inner) done.push(other);
          stack.length = 0;
          break;
        }
        const width = Math.min(opener.count, piece.count, 2);
        const tag = piece.mark === "~" ? "del" : width === 2 ? "strong" : "em";
        const node = document.createElement(tag);
        for (const other of inner) node.append(asNode(other));
        done.push({ node, depth });
        opener.count -= width;
        piece.count -= width;
        if (!opener.count) stack.pop();
      }
      if (piece.count) {
        if (piece.opens) stack.push(done.length);
        done.push(piece);
      }
    }
    return done
      .filter((piece) => piece.count !== 0)
      .map((piece) => ({ node: asNode(piece), depth: piece.depth ?? 0 }));
  }
}

const READERS = {
  "\\": "escape",
  "\n": "lineBreak",
  "`": "code",
  "*": "delimiter",
  _: "delimiter",
  "~": "delimiter",
  "[": "openBracket",
  "!": "openBracket",
  "]": "closeBracket",
  "<": "bracketedAddress",
  h: "address",
};

function asNode(piece) {
  return piece.node ?? document.createTextNode(piece.mark.repeat(piece.count));
}

function deepest(pieces) {
  return pieces.reduce((most, piece) => Math.max(most, piece.depth ?? 0), 0);
}

function flanks(inner, outer) {
  if (SPACE.test(inner)) return false;
  return !PUNCTUATION.test(inner) || SPACE.test(outer) || PUNCTUATION.test(outer);
}

/** Returns the start of the next run of exactly this many backticks, or -1. */
function closing(text, from, length) {
  let at = text.indexOf("`", from);
  while (at >= 0) {
    let end = at;
    while (text[end] === "`") end++;
    if (end - at === length) return at;
    at = text.indexOf("`", end);
  }
  return -1;
}

/** Strips what is not part of an address: the end of a sentence, an unmatched closing bracket. */
function withoutPunctuation(address) {
  let end = address.length;
  let extra = address.split(")").length - address.split("(").length;
  for (; end; end--) {
    const last = address[end - 1];
    if (last === ")" && extra > 0) extra--;
    else if (!".,:;!?'_~".includes(last)) break;
  }
  return address.slice(0, end);
}

function link(href, content) {
  const anchor = document.createElement("a");
  anchor.href = href;
  anchor.title = href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  anchor.append(content);
  return anchor;
}

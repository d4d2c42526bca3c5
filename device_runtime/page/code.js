// Blocks of code: a bar with the language and a button to copy, and modest colours.

const LONGEST_COLOURED = 50_000;

const HASH = "bash|console|dockerfile|ini|make|makefile|perl|py|python|r|rb|ruby|sh|shell|toml|yaml|yml|zsh";
const DASHES = "haskell|hs|lua|sql";
const SLASHES =
  "c|c#|c++|cc|cpp|cs|csharp|css|dart|go|h|hpp|java|javascript|js|json|jsonc|jsx|kotlin|kt|php|rs|rust" +
  "|scala|scss|swift|ts|tsx|typescript|zig";
const MARKUP = "html|svg|vue|xml";

const COMMENTS = new Map([
  ...HASH.split("|").map((lang) => [lang, "#[^\\n]*"]),
  ...DASHES.split("|").map((lang) => [lang, "--[^\\n]*"]),
  ...SLASHES.split("|").map((lang) => [lang, "\\/\\/[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)"]),
  ...MARKUP.split("|").map((lang) => [lang, "<!--[^]*?(?:-->|$)"]),
]);

// What the common languages share; none is read exactly.
const KEYWORDS = new Set(
  (
    "abstract and as assert async await begin bool boolean break case catch char class const constexpr " +
    "continue def default del delete do done double elif else end enum export extends extern false " +
    "False fi final finally float fn for from func function global goto if impl implements import in " +
    "include inline instanceof int interface is lambda let long loop match mod module move mut " +
    "namespace new nil None nonlocal not null nullptr of or override package pass private protected " +
    "pub public raise ref require return self short signed sizeof static str string struct super " +
    "switch template then this throw trait true True try type typedef typeof undefined union unsigned " +
    "use using var virtual void volatile where while with yield SELECT FROM WHERE INSERT INTO VALUES " +
    "UPDATE SET DELETE CREATE TABLE JOIN LEFT INNER ON GROUP ORDER BY LIMIT AND OR NOT NULL AS"
  ).split(" "),
);

/** The element for a block of code. */
export function codeBlock(lang, text) {
  const name = document.createElement("span");
  name.textContent = lang;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy-code";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", "Copy code");
  const bar = document.createElement("div");
  bar.className = "bar";
  bar.append(name, copy);
  const code = document.createElement("code");
  showCode(code, lang, text);
  const pre = document.createElement("pre");
  pre.append(code);
  const block = document.createElement("div");
  block.className = "code";
  block.append(bar, pre);
  return block;
}

/** Puts text into a code element, coloured if its language is known. */
export function showCode(element, lang, text) {
  const comment = COMMENTS.get(lang.toLowerCase());
  if (!comment || text.length > LONGEST_COLOURED) {
    element.textContent = text;
    return;
  }
  const content = document.createDocumentFragment();
  let end = 0;
  for (const found of text.matchAll(tokens(comment))) {
    const kind = kindOf(found.groups, text[found.index + found[0].length]);
    if (!kind) continue;
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = found[0];
    content.append(text.slice(end, found.index), span);
    end = found.index + found[0].length;
  }
  content.append(text.slice(end));
  element.replaceChildren(content);
}

function tokens(comment) {
  const string = `"(?:[^"\\\\\\n]|\\\\.)*"?|'(?:[^'\\\\\\n]|\\\\.)*'?|\`(?:[^\`\\\\]|\\\\.)*\`?`;
  const number = "\\b(?:0x[\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:e[+-]?\\d+)?)\\b";
  return new RegExp(
    `(?<comment>${comment})|(?<string>${string})|(?<number>${number})|(?<word>[A-Za-z_$][\\w$]*)`,
    "g",
  );
}

function kindOf({ comment, string, number, word }, next) {
  if (comment) return "comment";
  if (string) return "string";
  if (number) return "number";
  if (KEYWORDS.has(word)) return "keyword";
  return next === "(" ? "function" : null;
}

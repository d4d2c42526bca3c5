"""The prose of this repository, taken out of its files: comments, docstrings, texts, paragraphs.

Identifiers, keywords and code in Markdown do not count.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("packager", "device_runtime", "scripts")
DATA = ("packager/evaluation/prompts.py",)
"""Modules whose strings are for a language model."""


@dataclass(frozen=True)
class Passage:
    """A piece of prose.

    Attributes:
        text: the prose, without its indentation.
        line: of its beginning.
        exact: the lines of the text are lines of the file.
        docstring: it documents a module, class, function or constant.
    """

    text: str
    line: int
    exact: bool = True
    docstring: bool = False

    def line_at(self, offset: int) -> int:
        """The line of the file that holds a place of the text, or that of the beginning."""
        return self.line + self.text.count("\n", 0, offset) * self.exact


@dataclass(frozen=True)
class Document:
    """A file with prose: Markdown, or Python with a syntax tree."""

    path: str
    passages: tuple[Passage, ...]
    tree: ast.Module | None = None


def documents() -> Iterator[Document]:
    """The source files of `CODE`, README.md and the documents of docs/."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            yield python(name, path.read_text(encoding="utf-8"), data=name in DATA)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield markdown(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


def python(path: str, source: str, *, data: bool = False) -> Document:
    """Comments, docstrings and, unless the module is data, other strings of a Python file."""
    tree = ast.parse(source)
    strings = [text for text in _strings(tree) if text.docstring or not data]
    return Document(path, (*_comments(source), *strings), tree)


def markdown(path: str, text: str) -> Document:
    """The text of a Markdown file; of its code, the lines and the width stay."""
    code = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
    prose = code.sub(lambda match: re.sub(r"[^\n]", "_", match[0]), text)
    return Document(path, (Passage(_unindented(prose), 1),))


def _comments(source: str) -> Iterator[Passage]:
    """Comments; those of neighbouring lines are one, since a sentence may go on in the next."""
    lines: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start[0] != last + 1:
            yield Passage("\n".join(lines), last - len(lines) + 1)
            lines = []
        lines.append(token.string.removeprefix("#").strip())
        last = token.start[0]
    if lines:
        yield Passage("\n".join(lines), last - len(lines) + 1)


def _strings(node: ast.AST) -> Iterator[Passage]:
    """Strings below a node, those with fields as one text with `_` in place of each field."""
    match node:
        case ast.Expr(value=ast.Constant(value=str() as text) as constant):
            yield _passage(constant, text, docstring=True)
        case ast.Constant(value=str() as text):
            yield _passage(node, text)
        case ast.JoinedStr(values=values):
            parts = [part.value if isinstance(part, ast.Constant) else "_" for part in values]
            yield _passage(node, "".join(str(part) for part in parts))
            for part in values:
                if isinstance(part, ast.FormattedValue):
                    yield from _strings(part.value)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _strings(child)


def _passage(node: ast.expr, text: str, *, docstring: bool = False) -> Passage:
    lines = (node.end_lineno or node.lineno) - node.lineno
    return Passage(_unindented(text), node.lineno, lines == text.count("\n"), docstring)


def _unindented(text: str) -> str:
    return re.sub(r"[ \t]*\n[ \t]*", "\n", text)

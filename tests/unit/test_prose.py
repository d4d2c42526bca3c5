"""The English of comments, docstrings, messages and documents, as far as a pattern can hold it."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support import prose
from tests.support.prose import Document

Finder = Callable[[Document], Iterator[tuple[int, str]]]
"""Finds the lines that break a rule, each with the words that do."""

VARIABLES = ("found", "made", "each", "one")


def words(pattern: str) -> Finder:
    """Find a pattern, in which a space may be a line break."""
    compiled = re.compile(pattern.replace(" ", r"\s"), re.IGNORECASE)

    def find(document: Document) -> Iterator[tuple[int, str]]:
        for passage in document.passages:
            for match in compiled.finditer(passage.text):
                yield passage.line_at(match.start()), " ".join(match[0].split())

    return find


def openings(document: Document) -> Iterator[tuple[int, str]]:
    """Find docstrings that begin as a question does."""
    for passage in document.passages:
        match = re.match(r"\s*((What|Whether|Who|Whom|How|Why|Where|When)\b.*)", passage.text)
        if match and passage.docstring:
            yield passage.line_at(match.start(1)), match[1]


def variables(document: Document) -> Iterator[tuple[int, str]]:
    """Find assignments, also those of loops, to the names in `VARIABLES`."""
    if document.tree is None or document.path.startswith("scripts/"):
        return
    nodes = list(ast.walk(document.tree))
    fields = [
        part.target
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.AnnAssign)
    ]
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) if name in VARIABLES and node not in fields:
                yield node.lineno, name


@dataclass(frozen=True)
class Rule:
    """A rule of the house.

    Attributes:
        sentence: what to write instead.
        find: finds what breaks it.
        broken: a line of Python that does.
        kept: lines that look like it and do not.
    """

    sentence: str
    find: Finder
    broken: str
    kept: tuple[str, ...]


RULES = {
    "is no": Rule(
        "Write that X is not a Y, never that it is no Y; there is no Y is right.",
        # Also right: no longer, no more than.
        words(r"(?<!there )\b(is|are) no (?!longer|more|less|later|better|worse)\w+"),
        'raise Error(f"{path} is no model")',
        (
            '"there is no model", "there are no bits"',
            "# It is no longer than that.",
            "is_no = no_is",
        ),
    ),
    "anew": Rule(
        "Write again, from scratch or new, not anew.",
        words(r"\banew\b"),
        "# The prompt is read anew.",
        ("anew = 1", "# a new one"),
    ),
    "whom": Rule(
        "Name the person or the program, not whom.",
        words(r"\bwhom\b"),
        "# The client, to whom it belongs",
        ("whom = 1", "# who"),
    ),
    "of no use": Rule(
        "Write invalid, or what is wrong, not of no use.",
        words(r"\bof no use\b"),
        'f"{address} is of no\\n use"',
        ("# It cannot be used.",),
    ),
    "shall not": Rule(
        "Write must not, or does not, never shall not.",
        words(r"\bshall not\b"),
        "# It shall not be kept.",
        ("# It must not be kept.", "shall = not shall"),
    ),
    "docstring": Rule(
        "Begin a docstring with a verb (functions) or a noun (types), not as a question does.",
        openings,
        'def even(): """Whether it is even."""',
        (
            'def even(): """Return whether it is even."""',
            'even = "What is even?"',
            'class Even: """Whatever is even."""',
        ),
    ),
    "variable": Rule(
        f"Name what a variable holds; {', '.join(VARIABLES)} say nothing.",
        variables,
        "for number, each in pairs: pass",
        (
            "class Check:\n    found: str",
            "check = Check(found=1)",
            "match.found = pairs['one']",
            "import one",
        ),
    ),
}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(prose.documents())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_prose_keeps_the_rule(documents: list[Document], rule: Rule) -> None:
    broken = [
        f"{document.path}:{line}: {words}"
        for document in documents
        for line, words in rule.find(document)
    ]
    if broken:
        pytest.fail("\n".join((rule.sentence, *broken)), pytrace=False)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rule_finds_what_breaks_it_and_nothing_else(rule: Rule) -> None:
    document = prose.python("packager/sample.py", "\n\n".join((*rule.kept, rule.broken)))
    ((line, words),) = rule.find(document)
    assert line == "\n\n".join((*rule.kept, "")).count("\n") + 1
    assert words in rule.broken.replace("\\n", "")


def test_sentence_goes_on_in_the_next_line_and_its_place_is_known() -> None:
    find = RULES["is no"].find
    sources = {
        "# This\n# value is\n# no model, and there\n# is no other": 2,
        'x = 1\n\ndef f():\n    """Take it.\n\n    A file is\n    no model.\n    """': 6,
        'x = (\n    "the file is"\n    " no model"\n)': 2,
        'x = f"{path} is {1 + 1}"\ny = f"{path} is no {kind} here" f"{z}"': 2,
        "x = f\"{'a is no b'}\"": 1,
    }
    for source, line in sources.items():
        assert [number for number, _ in find(prose.python("x.py", source))] == [line], source


def test_markdown_is_read_without_its_code() -> None:
    text = "# It\n\n`a` is no b. There\nis no c.\n```\nd is no e\n```\n`f is no g` are\nno h\n"
    assert [line for line, _ in RULES["is no"].find(prose.markdown("x.md", text))] == [3, 8]


def test_strings_for_a_language_model_do_not_count() -> None:
    source = '"""Whether it is no model."""\n\nPROMPT = "A whale is no fish."\n'
    assert len(prose.python("x.py", source).passages) == 2
    (passage,) = prose.python("x.py", source, data=True).passages
    assert passage.docstring


def test_all_rooms_and_documents_are_read(documents: list[Document]) -> None:
    paths = {document.path for document in documents}
    assert {*prose.DATA, "packager/cli.py", "device_runtime/errors.py", "README.md"} <= paths
    assert any(path.startswith("docs/") for path in paths)
    assert any(path.startswith("scripts/") for path in paths)
    assert sum(len(document.passages) for document in documents) > 1000

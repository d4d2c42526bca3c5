"""Rules of a grammar in llguidance's dialect of Lark, each text once.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json

from device_runtime.json_schema.document import Source

MAX_RULES = 2_000
MAX_GRAMMAR = 400_000
"""Characters of a grammar."""

_CONSTANTS = ('"null"', '"true"', '"false"')


class Rules:
    """Rules and terminals that are named as they come.

    Attributes:
        start: name of the rule for the whole; all names begin with it.
    """

    def __init__(self, start: str, root: Source) -> None:
        """Begin without a rule.

        Args:
            start: name of the rule for the whole.
            root: the schema that the grammar is for.
        """
        self.start = start
        self._root = root
        self._rules: dict[str, str] = {}
        self._terminals: dict[str, str] = {}
        self._lines: list[str] = []
        self._characters = 0

    def lines(self, whole: str) -> list[str]:
        """The grammar, the rule for the whole first, which has this text."""
        return [f"{self.start}: {whole}", *self._lines]

    def rule(self, text: str) -> str:
        """The name of the rule that has this text."""
        if text.isidentifier() or text in _CONSTANTS:
            return text
        return self._named(self._rules, text, f"{self.start}_{len(self._rules) + 1}")

    def counting(self, text: str) -> str:
        """The name of the rule that has this text and a number as its parameter.

        https://github.com/guidance-ai/llguidance/blob/main/docs/parametric.md
        """
        return self._named(self._rules, text, f"{self.start}_{len(self._rules) + 1}", "::_ ")

    def terminal(self, text: str) -> str:
        """The name of the terminal that has this text."""
        name = f"{self.start}_{len(self._terminals) + 1}".upper()
        return self._named(self._terminals, text, name)

    def _named(self, names: dict[str, str], text: str, name: str, parameter: str = "") -> str:
        if text not in names:
            names[text] = name
            self._lines.append(f"{name}{parameter}: {text}")
            self._characters += len(text)
            if len(names) > MAX_RULES or self._characters > MAX_GRAMMAR:
                raise self._root.error("schema", "is too large, as a grammar")
        return names[text]


def literal(text: str) -> str:
    """A text in a grammar. The engine's reader of strings knows no surrogate pairs."""
    return json.dumps(text, ensure_ascii=False)

"""The display of an answer in a terminal: its thoughts, an empty line, and its text."""

import os
import sys
from collections.abc import Callable

import click


class AnswerDisplay:
    """Shows one answer, as it is generated.

    Args:
        show: writes text of the answer.
        think: writes text of its thoughts.
    """

    def __init__(self, show: Callable[[str], None], think: Callable[[str], None]) -> None:
        self._show = show
        self._think = think
        self._thinks = False

    def add(self, thoughts: str, text: str) -> None:
        """Write the next thoughts, and the next text after them."""
        if thoughts:
            self._think(thoughts)
            self._thinks = True
        if text and self._thinks:
            self._think("\n\n")
            self._thinks = False
        self._show(text)


def beside(text: str, *, nl: bool = True) -> None:
    """Write what is not the answer itself on stderr, dim in a terminal."""
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    click.echo(text if plain else click.style(text, dim=True), err=True, nl=nl)

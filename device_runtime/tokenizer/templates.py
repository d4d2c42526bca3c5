"""Chat templates, rendered by Jinja in the environment that transformers gives them.

A template comes with the model, so it runs in Jinja's sandbox: it sees the messages and nothing of
the program.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from device_runtime.errors import RequestError
from device_runtime.tokenizer.files import chat_templates, named_tokens, template_for

_END = "CONTINUE_FINAL_MESSAGE_TAG "
"""Mark after a message; a space at its end shows whether the template strips messages."""


class ChatTemplates:
    """The chat templates of a model."""

    def __init__(self, texts: dict[str, str], tokens: dict[str, str]) -> None:
        """Take templates by name, and the tokens that they know by name."""
        self._texts = texts
        self._tokens = tokens
        self._compiled: dict[str, jinja2.Template] = {}

    @classmethod
    def of(cls, folder: Path) -> "ChatTemplates":
        """Read the templates of a model folder."""
        return cls(chat_templates(folder), named_tokens(folder))

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        arguments: Mapping[str, Any] | None = None,
        *,
        continues: bool = False,
    ) -> str:
        """Render a conversation up to the beginning of its next answer.

        Args:
            messages: the turns, as the template takes them.
            tools: definitions of tools; None for none.
            arguments: further arguments of the template.
            continues: the last turn is the beginning of that answer; the text ends with it.

        Raises:
            RequestError: the model has no template, or the template rejects the conversation.
        """
        text = template_for(self._texts, tools=tools is not None)
        if not text:
            raise RequestError(
                "the model has no chat template", hint="Send raw prompts (/v1/completions)."
            )
        try:
            if text not in self._compiled:
                self._compiled[text] = self._environment.from_string(text)
            rendered = self._compiled[text].render(
                {
                    **self._tokens,
                    **(arguments or {}),
                    "messages": _marked(messages) if continues else list(messages),
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": not continues,
                }
            )
            return _cut(rendered) if continues else rendered
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise RequestError(
                f"the model's chat template rejected the messages: {reason}",
                hint="Send the turns in the order that this model supports.",
            ) from None

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        # What is rendered goes to a tokenizer; nothing is to be escaped for HTML.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda form: datetime.now().strftime(form),
            "dict": lambda *pairs, **items: dict(*pairs, **items),
            "namespace": _Namespace,
        }
        return environment


def _marked(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the end of the last turn's content."""
    *earlier, last = messages
    return [*earlier, last | {"content": last["content"] + _END}]


def _cut(text: str) -> str:
    """Cut a rendered conversation at the mark, as transformers' `continue_final_message` does."""
    place = text.rfind(_END.strip())
    if place < 0:
        raise jinja2.TemplateError("it leaves out the message to be continued")
    before = text[:place]
    # A template that strips a message has taken the mark's own space as well.
    return before if text.startswith(_END, place) else before.rstrip()


class _Generation(Extension):
    """The tag with which a template marks what the model has written; it has no other effect."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(Namespace):
    """Jinja's namespace without the names of Python's internals."""

    def __setitem__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateError(f"a template cannot set the attribute {name}")
        super().__setitem__(name, value)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without escapes for HTML, unlike Jinja's own filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)

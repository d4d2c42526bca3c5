"""The model that a release serves, read from its files."""

import json
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.release import Release
from device_runtime.config.options import RuntimeConfig
from device_runtime.inference.engine import adapters
from device_runtime.inference.tokenizer_file import special_tokens
from device_runtime.tools.dialect import Dialect


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that answers requests, and the limits of its answers.

    Attributes:
        model: name of the model.
        dialect: form of the model's tool calls.
        template: the model's chat template; empty without one.
        max_tokens: length of an answer if the request sets none, tokens.
        adapters: names of the model's adapters.
        max_messages: maximum number of messages in a conversation.
        system_prompt: prepended to conversations without a system turn; empty for none.
    """

    model: str
    dialect: Dialect
    max_tokens: int
    template: str = ""
    adapters: tuple[str, ...] = ()
    max_messages: int = 1000
    system_prompt: str = ""

    @classmethod
    def of(
        cls, model: str, folder: Path, *, max_tokens: int, max_messages: int, system_prompt: str
    ) -> "ServedModel":
        """Read a model's dialect and adapters from its folder; other arguments are attributes."""
        ends = _json(folder / "genai_config.json").get("model", {}).get("eos_token_id", ())
        template = _chat_template(folder)
        dialect = Dialect.of(
            template,
            special=special_tokens(folder / "tokenizer.json"),
            end_tokens=(ends,) if isinstance(ends, int) else ends,
        )
        return cls(
            model=model,
            dialect=dialect,
            template=template,
            adapters=tuple(adapters(folder)),
            max_tokens=max_tokens,
            max_messages=max_messages,
            system_prompt=system_prompt,
        )

    @classmethod
    def of_release(cls, release: Release, config: RuntimeConfig) -> "ServedModel":
        """Describe the model of a release, as it is configured.

        Raises:
            ServiceError: the file with the system prompt cannot be read.
        """
        return cls.of(
            release.manifest.model.name,
            release.model_folder,
            max_tokens=config.max_tokens,
            max_messages=config.max_messages,
            system_prompt=config.system_prompt(),
        )

    @property
    def models(self) -> tuple[str, ...]:
        """All names that the field `model` of a request can have."""
        return (self.model, *(f"{self.model}:{adapter}" for adapter in self.adapters))


def _chat_template(folder: Path) -> str:
    """Read the template that ONNX Runtime GenAI uses: its own file, or the tokenizer's config."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    template = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(template, list):
        by_name = {entry.get("name"): entry.get("template") for entry in template}
        template = by_name.get("default") or ""
    return str(template)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

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
    """A model that answers requests, and the bounds of its answers.

    Attributes:
        model: its name.
        adapters: names of its adapters.
        dialect: how it writes tool calls.
        max_tokens: length of an answer for which the request gives none.
        max_messages: most turns of a conversation.
        system_prompt: begins conversations that have no system turn; empty for none.
    """

    model: str
    dialect: Dialect
    max_tokens: int
    adapters: tuple[str, ...] = ()
    max_messages: int = 1000
    system_prompt: str = ""

    @classmethod
    def of(
        cls, model: str, folder: Path, *, max_tokens: int, max_messages: int, system_prompt: str
    ) -> "ServedModel":
        """Read a model's dialect and adapters from its folder; the arguments are attributes."""
        ends = _json(folder / "genai_config.json").get("model", {}).get("eos_token_id", ())
        dialect = Dialect.of(
            _chat_template(folder),
            special=special_tokens(folder / "tokenizer.json"),
            end_tokens=(ends,) if isinstance(ends, int) else ends,
        )
        return cls(
            model=model,
            dialect=dialect,
            adapters=tuple(adapters(folder)),
            max_tokens=max_tokens,
            max_messages=max_messages,
            system_prompt=system_prompt,
        )

    @classmethod
    def of_release(cls, release: Release, config: RuntimeConfig) -> "ServedModel":
        """Describe the model of a release, as it is configured.

        Raises:
            ServiceError: the file of the system prompt cannot be read.
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
        """All names that a request's `model` can have."""
        return (self.model, *(f"{self.model}:{adapter}" for adapter in self.adapters))


def _chat_template(folder: Path) -> str:
    """As ONNX Runtime GenAI finds it: a file of its own, or in the tokenizer's config."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    found = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found}
        found = named.get("default") or ""
    return str(found)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""A model in ONNX Runtime GenAI; nothing else on the device imports that package."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from device_runtime import memory
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import (
    GenerationRequest,
    PromptTooLongError,
    adapters,
    place_of_nul,
)
from device_runtime.inference.kv_cache import Kind, Tokens
from device_runtime.inference.tokenizer_file import TokenBytes, normal_form

# Official packages report to their maker unless told not to, from the moment of import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["ORT_TELEMETRY_DISABLED"] = "1"

import onnxruntime_genai as og

og.disable_telemetry_events()

LEAST_CAPACITY = 8
"""Tokens; enough for the first run."""

ENGINE_HINT = "edgepack-runtime doctor says what is missing or damaged."


class GenAIModel:
    """Model, tokenizer and adapters.

    Attributes:
        context_length: most tokens of prompt and answer together.
        end_tokens: numbers of the tokens that end an answer.
        least_capacity: tokens that a KV cache must have room for at least; attention with a sliding
            window needs the whole window.
        kv_bytes: size of the KV cache of one token; 0 for a model that does not tell.
        long_rope: it has other rotary factors for long texts.
        token_bytes: the bytes of each token.
        vocabulary: number of tokens.
    """

    def __init__(self, folder: Path, *, context_length: int, threads: int) -> None:
        """Load it.

        Args:
            folder: holds genai_config.json, the graph, the tokenizer, perhaps adapters.
            context_length: most tokens of prompt and answer together.
            threads: of ONNX Runtime; 0 leaves the number to it.

        Raises:
            EngineError: it does not load.
        """
        try:
            config = og.Config(str(folder))
            if threads:
                options = {"intra_op_num_threads": threads}
                config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._model = og.Model(config)
            self._tokenizer = og.Tokenizer(self._model)
            self._adapters = og.Adapters(self._model)
            self._adapter_names: set[str] = set()
            for name, path in adapters(folder).items():
                self._adapters.load(str(path), name)
                self._adapter_names.add(name)
            self.context_length = context_length
            decoder = json.loads((folder / "genai_config.json").read_bytes())["model"]["decoder"]
            self.least_capacity = memory.kv_cache_length(decoder, LEAST_CAPACITY)
            self.vocabulary, self.kv_bytes = self._shapes(decoder)
        except Exception as error:
            what = f"the model in {folder} does not load"
            if "cuda" in str(error).lower():
                what = "this model runs on an NVIDIA GPU, which cannot be used here"
            raise EngineError(f"{what}: {first_line(error)}", hint=ENGINE_HINT) from None
        self._normal_form = normal_form(folder / "tokenizer.json")
        self.token_bytes = TokenBytes(folder / "tokenizer.json")
        self.long_rope = str(self._model.type).startswith("phi3")
        self.end_tokens = frozenset(int(token) for token in self._tokenizer.eos_token_ids)

    def generator(self, capacity: int, kind: Kind, num_beams: int = 1) -> Any:
        """A greedy generator, or one that searches beams, with a KV cache of its own.

        Raises:
            RequestError: the engine cannot do the guidance, or there is no such adapter.
        """
        params = og.GeneratorParams(self._model)
        params.set_search_options(
            max_length=capacity, do_sample=False, num_beams=num_beams, early_stopping=True
        )
        if kind.adapter and kind.adapter not in self._adapter_names:
            raise RequestError(f"the model has no adapter {kind.adapter!r}")
        if kind.guidance is None:
            generator = og.Generator(self._model, params)
        else:
            params.set_guidance(kind.guidance.kind, kind.guidance.data)
            try:
                generator = og.Generator(self._model, params)
            except RuntimeError as error:
                raise RequestError(
                    f"the answer's form cannot be kept: {first_line(error)}",
                    hint="Simplify the schema.",
                ) from None
        if kind.adapter:
            generator.set_active_adapter(self._adapters, kind.adapter)
        return generator

    def encode(self, request: GenerationRequest) -> Tokens:
        """The prompt's tokens, int32 [tokens].

        Raises:
            RequestError: the chat template refuses the messages, the prompt is empty, or a text
                of the request would be cut off.
            PromptTooLongError: it leaves no room for an answer.
        """
        if place := place_of_nul(msgspec.to_builtins(request), ""):
            raise RequestError(f"{place} must not contain U+0000", hint="Leave it out.")
        # A chat template writes the token that begins a text itself.
        raw = isinstance(request.prompt, str)
        text = request.prompt if isinstance(request.prompt, str) else self._rendered(request)
        if self._normal_form is not None:
            text = unicodedata.normalize(self._normal_form, text)
        self._tokenizer.update_options(add_special_tokens=str(raw).lower())
        tokens = np.asarray(self._tokenizer.encode(text), np.int32)
        if len(tokens) == 0:
            raise RequestError("the prompt is empty", hint="Give it some text.")
        if len(tokens) >= self.context_length:
            raise PromptTooLongError(
                f"the prompt has {len(tokens)} tokens; this model's context has room for "
                f"{self.context_length}, prompt and answer together",
                hint="Shorten the prompt.",
            )
        return tokens

    def stream(self) -> Any:
        """Decodes token after token; gives out whole characters."""
        return self._tokenizer.create_stream()

    def decode(self, tokens: list[int]) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(np.array(tokens, np.int32))) if tokens else ""

    def _rendered(self, request: GenerationRequest) -> str:
        options = {"tools": request.tools, "template_str": request.template}
        options = {name: value for name, value in options.items() if value}
        messages = msgspec.json.encode(request.prompt).decode()
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
            )
        except RuntimeError as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {first_line(error)}",
                hint="A model without a chat template takes raw prompts only.",
            ) from None

    def _shapes(self, decoder: dict[str, Any]) -> tuple[int, int]:
        """Size of the vocabulary, and bytes of KV cache for each token, as seen in a first run."""
        generator = self.generator(self.least_capacity, Kind())
        generator.append_tokens(np.zeros(2, np.int32))
        vocabulary = generator.get_logits().shape[-1]
        total = 0
        for layer in range(decoder["num_hidden_layers"]):
            for kind in ("past_key_names", "past_value_names"):
                try:
                    found = generator.get_input(decoder["inputs"][kind] % layer)
                except (KeyError, RuntimeError):
                    # Layers without one, as those with a state of fixed size.
                    continue
                total += found.nbytes
        return vocabulary, total // self.least_capacity


def first_line(error: Exception) -> str:
    """The start of a native error: template errors go on with a drawing of where they are."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__

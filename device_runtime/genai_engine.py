"""The engine on ONNX Runtime GenAI; nothing else on the device imports that package."""

import json
import os
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from device_runtime.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptTooLongError,
    StopStrings,
    Usage,
)
from device_runtime.errors import EngineError, RequestError

# Official packages report to their maker unless told not to, from the moment of import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["ORT_TELEMETRY_DISABLED"] = "1"

import onnxruntime_genai as og

og.disable_telemetry_events()

PROMPT_STEP = 128
"""Tokens of a prompt processed at once: cancelling takes effect between two steps, and on a CPU
smaller steps are slower while larger ones are not faster."""

LONG_ROPE_FROM = 4096
"""Tokens beyond which Phi-3.5 uses its long rotary factors, for all that came before as well: a
longer prompt must be processed at once, for nothing of it may be in the cache with short ones."""

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_HINT = "edgepack-runtime doctor says what is missing or damaged."


class _Normalizer(msgspec.Struct):
    type: str = ""
    normalizers: tuple["_Normalizer", ...] = ()


class _TokenizerFile(msgspec.Struct):
    normalizer: _Normalizer | None = None


class GenAIEngine:
    """A model that ONNX Runtime GenAI has loaded."""

    def __init__(self, model_folder: Path, *, context_length: int, threads: int) -> None:
        """Load the model.

        Args:
            model_folder: holds genai_config.json, the graph and the tokenizer.
            context_length: most tokens of prompt and answer together.
            threads: of ONNX Runtime; 0 leaves the number to it.

        Raises:
            EngineError: the model does not load.
        """
        try:
            config = og.Config(str(model_folder))
            if threads:
                options = {"intra_op_num_threads": threads}
                config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._model = og.Model(config)
            self._tokenizer = og.Tokenizer(self._model)
        except Exception as error:
            what = f"the model in {model_folder} does not load"
            if "cuda" in str(error).lower():
                what = "this model runs on an NVIDIA GPU, which cannot be used here"
            raise EngineError(f"{what}: {_first_line(error)}", hint=_HINT) from None
        self._normal_form = _normal_form(model_folder / "tokenizer.json")
        self._long_rope = str(self._model.type).startswith("phi3")
        self._context_length = context_length
        self._end_tokens = frozenset(int(token) for token in self._tokenizer.eos_token_ids)

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Iterator[GenerationChunk]:
        """See `Engine.generate`."""
        started = time.monotonic()
        prompt = self._encode(request)
        limit = min(len(prompt) + request.max_tokens, self._context_length)
        yield GenerationChunk()
        try:
            generator = self._start(request, limit)
            whole = self._long_rope and len(prompt) > LONG_ROPE_FROM
            step = len(prompt) if whole else PROMPT_STEP
            for start in range(0, len(prompt), step):
                if cancelled():
                    break
                generator.append_tokens(prompt[start : start + step])
            yield from self._decode(generator, request, len(prompt), started, cancelled)
        except RuntimeError as error:
            raise EngineError(f"the model failed: {_first_line(error)}", hint=_HINT) from None

    def _decode(
        self,
        generator: Any,
        request: GenerationRequest,
        prompt_tokens: int,
        started: float,
        cancelled: Callable[[], bool],
    ) -> Iterator[GenerationChunk]:
        stream = self._tokenizer.create_stream()
        stops = StopStrings(request.stop)
        text = ""
        tokens = 0
        first_at = last_at = started
        reason: FinishReason | None = None
        while reason is None:
            if cancelled():
                reason = FinishReason.CANCELLED
                break
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            tokens += 1
            last_at = time.monotonic()
            first_at = last_at if tokens == 1 else first_at
            text, stopped = "", token in self._end_tokens
            if not stopped:
                text, stopped = stops.push(stream.decode(token))
                reason = FinishReason.LENGTH if generator.is_done() else None
            if stopped:
                reason = FinishReason.STOP
            else:
                yield GenerationChunk(text=text, tokens=tokens)
                text = ""
        yield GenerationChunk(
            text=text + stops.rest(),
            tokens=tokens,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=prompt_tokens,
                completion_tokens=tokens,
                first_token_s=first_at - started,
                decode_s=last_at - first_at,
            ),
        )

    def _encode(self, request: GenerationRequest) -> Any:
        """The prompt's tokens, an int32 array [tokens]."""
        if isinstance(request.prompt, str):
            text = request.prompt
        else:
            messages = json.dumps([msgspec.structs.asdict(turn) for turn in request.prompt])
            try:
                text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            except RuntimeError as error:
                raise RequestError(
                    f"the model's chat template refuses these messages: {_first_line(error)}",
                    hint="A model without a chat template takes raw prompts only.",
                ) from None
        if self._normal_form is not None:
            text = unicodedata.normalize(self._normal_form, text)
        # A chat template writes the token that begins a text itself.
        raw = isinstance(request.prompt, str)
        self._tokenizer.update_options(add_special_tokens=str(raw).lower())
        tokens = self._tokenizer.encode(text)
        if len(tokens) == 0:
            raise RequestError("the prompt is empty", hint="Give it some text.")
        if len(tokens) >= self._context_length:
            raise PromptTooLongError(
                f"the prompt has {len(tokens)} tokens; this model's context has room for "
                f"{self._context_length}, prompt and answer together",
                hint="Shorten the prompt.",
            )
        return tokens

    def _start(self, request: GenerationRequest, max_length: int) -> Any:
        """A generator with the request's options; its KV cache has room for max_length tokens."""
        options: dict[str, Any] = {
            "max_length": max_length,
            "do_sample": False,
            "repetition_penalty": request.repetition_penalty,
        }
        # ONNX Runtime GenAI takes a top_p or temperature of 0 for "not set".
        if request.temperature > 0 and request.top_p > 0:
            options |= {
                "do_sample": True,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "top_k": request.top_k,
                # Its seed has 31 bits, and a negative one means a random one.
                "random_seed": -1 if request.seed is None else request.seed % 2**31,
            }
        params = og.GeneratorParams(self._model)
        params.set_search_options(**options)
        return og.Generator(self._model, params)


def _normal_form(tokenizer: Path) -> Literal["NFC", "NFD", "NFKC", "NFKD"] | None:
    """The Unicode form that a tokenizer wants its text in; the runtime leaves that to us."""
    try:
        found = msgspec.json.decode(tokenizer.read_bytes(), type=_TokenizerFile).normalizer
    except (OSError, msgspec.DecodeError):
        return None
    for each in (found, *found.normalizers) if found is not None else ():
        if each.type in _FORMS:
            return cast(Literal["NFC", "NFD", "NFKC", "NFKD"], each.type)
    return None


def _first_line(error: Exception) -> str:
    """The start of a native error: template errors go on with a drawing of where they are."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__

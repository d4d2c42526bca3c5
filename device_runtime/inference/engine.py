"""What every inference engine offers: requests in, chunks of text out.

The structs here cross the boundary between the two processes, so they hold plain data.
"""

from collections.abc import Callable, Generator
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from device_runtime.errors import RequestError, ServiceError


class FinishReason(StrEnum):
    """Why an answer ended; all but the last are OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation, as chat templates take it.

    Attributes:
        role: who speaks, as the template names it.
        content: the text; empty in a turn that only calls tools.
        tool_calls: the calls an assistant made, in the form the model's template expects.
        tool_call_id: in a `tool` turn, the call that this is the result of.
        name: the speaker's; in a `tool` turn, the tool's. Empty for none.
    """

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str = ""
    name: str = ""


class Guidance(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must look like, as `GeneratorParams.set_guidance` takes it.

    Attributes:
        kind: how it is written.
        data: a JSON schema, a regular expression or a grammar in llguidance's dialect of Lark.
    """

    kind: Literal["json_schema", "regex", "lark_grammar"]
    data: str


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer, and how to choose the tokens.

    Attributes:
        prompt: a conversation, which goes through the model's chat template, or raw text.
        tools: JSON array of the tools, for templates that know tools; empty for none.
        template: a chat template to use instead of the model's own; empty for that.
        max_tokens: most tokens of an answer; the context may end it earlier.
        n: how many answers; answer number i has seed + i.
        temperature: 0 takes the most likely token each time (greedy).
        top_p: sample from the most likely tokens that together have this probability, 0 to 1.
        top_k: sample from this many most likely tokens; 0 for all.
        min_p: sample from tokens at least this share as likely as the most likely one; 0 for all.
        repetition_penalty: above 1 makes tokens that are already there less likely (CTRL,
            arXiv:1909.05858).
        frequency_penalty: taken from a token's score for each time the answer has it already.
        presence_penalty: taken from a token's score if the answer has it already.
        logit_bias: token numbers, and what is added to their scores.
        logprobs: how many most likely alternatives to tell with each token; None for none, and not
            the token's own log probability either.
        num_beams: width of a beam search; 1 for none.
        stop: texts before which the answer ends.
        seed: same seed, same answer; None for a new one each time.
        guidance: what the answer must look like; None for anything.
        shown: special tokens that are part of the answer's text: number and text.
        adapter: name of an adapter of the release; empty for the model itself.
    """

    prompt: tuple[Message, ...] | str
    max_tokens: int
    tools: str = ""
    template: str = ""
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    num_beams: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    guidance: Guidance | None = None
    shown: tuple[tuple[int, str], ...] = ()
    adapter: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a request took.

    Attributes:
        prompt_tokens: length of the prompt.
        completion_tokens: tokens generated, end tokens included, of all answers.
        cached_tokens: tokens of the prompt that were remembered from an earlier request.
        first_token_s: seconds from the start of work to the first token; waiting in a queue is
            not in it.
        decode_s: seconds from the first token to the last.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    first_token_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Speed of decoding; None for an answer too short to have one."""
        if self.completion_tokens < 2 or self.decode_s <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_s


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """How likely the model found a token, before temperature, penalties and bias.

    Attributes:
        data: the token's bytes, which may be a part of a character.
        logprob: natural logarithm of its probability.
        top: the most likely tokens here, each with its bytes and logarithm.
    """

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class GenerationChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of an answer.

    Attributes:
        index: which answer, from 0; they come one after the other.
        text: whole characters; may be empty.
        tokens: tokens of this answer generated so far.
        logprobs: of the tokens that this chunk adds, if asked for.
        finish_reason: only in an answer's last chunk.
        usage: only in the last chunk of all.
    """

    index: int = 0
    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class PromptTooLongError(RequestError):
    """The prompt leaves no room for an answer in the model's context."""

    wire_name = "prompt_too_long"
    api_code = "context_length_exceeded"


class UnknownTokenError(RequestError):
    """The request names a token that the model has not."""

    wire_name = "unknown_token"
    param = "logit_bias"


class OutOfMemoryError(RequestError):
    """The memory for KV caches cannot hold this request, whatever else is running."""

    wire_name = "out_of_memory"
    api_code = "kv_cache_too_small"
    param = "max_tokens"


class NoMemoryNowError(ServiceError):
    """The device has too little memory free for this request at the moment."""

    wire_name = "no_memory_now"
    api_code = "insufficient_memory"
    refuses = True


class Engine(Protocol):
    """A loaded model."""

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Generator[GenerationChunk]:
        """Answer a request.

        The first chunk is empty and comes before the work starts: the request is accepted. More
        empty ones may come while the prompt is read, so that other work can be done between two
        steps. The last one has the usage.

        Args:
            request: what to answer.
            cancelled: asked often; once true, the answer ends soon with `CANCELLED`.

        Raises:
            RequestError: before the first chunk, if the model cannot take this request.
            EngineError: the model fails.
        """
        ...

    def warm(self, system: str) -> None:
        """Have what conversations begin with ready, from the next idle time on.

        Args:
            system: the system prompt; empty for what the chat template itself begins with.
        """
        ...

    def idle(self) -> bool:
        """Do a small piece of work that makes later requests faster; False if there is none."""
        ...


def adapters(model_folder: Path) -> dict[str, Path]:
    """The adapters beside a model, files of ONNX Runtime, by name."""
    found = sorted((model_folder / "adapters").glob("*.onnx_adapter"))
    return {path.stem: path for path in found}


def place_of_nul(value: object, place: str) -> str | None:
    """Find the first text with U+0000: ONNX Runtime GenAI takes C strings, which end there.

    Args:
        value: as decoded from JSON.
        place: of the value; that of a part is written behind it.

    Returns:
        Place of the text, or of the object with such a name; None if there is no such text.
    """
    parts = [(place, value)]
    for place, part in parts:
        if isinstance(part, str) and "\0" in part:
            return place
        if isinstance(part, dict):
            if any("\0" in name for name in part):
                return place
            parts += [(f"{place}.{name}".removeprefix("."), item) for name, item in part.items()]
        elif isinstance(part, list | tuple):
            parts += [(f"{place}[{number}]", item) for number, item in enumerate(part)]
    return None

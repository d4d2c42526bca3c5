"""The interface of an inference engine: requests in, chunks of text out.

The structs here are sent between the two processes, so they hold plain data only.
"""

from collections.abc import Callable, Generator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from device_runtime.errors import RequestError, ResourceError, ServiceError


class FinishReason(StrEnum):
    """Reason an answer ended; all but the last are OpenAI's values."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Image(msgspec.Struct, frozen=True, tag=True):
    """An image of a conversation.

    Attributes:
        data: the file as it came; not checked yet.
    """

    data: bytes


Part = str | Image
"""A part of a turn's content."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation, in the form that chat templates take.

    Attributes:
        role: the speaker's role, as the template names it.
        content: the text, empty in a turn that only calls tools; or texts and images in their
            order, where there are images.
        tool_calls: the assistant's tool calls, in the form the model's template expects.
        tool_call_id: in a `tool` turn, id of the call that this turn is the result of.
        name: name of the speaker; in a `tool` turn, of the tool. Empty for none.
        reasoning_content: the assistant's thoughts before its content; templates leave them out
            where the model does not need them any more.
    """

    role: str
    content: str | tuple[Part, ...]
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning_content: str = ""


class Guidance(msgspec.Struct, frozen=True, kw_only=True):
    """A constraint on the answer's text.

    Attributes:
        kind: language of the constraint.
        data: a JSON schema, a regular expression or a grammar in llguidance's dialect of Lark.
        free_until: text with which the free part of the answer ends; empty for no free part. Stop
            strings apply only there.
    """

    kind: Literal["json_schema", "regex", "lark_grammar"]
    data: str
    free_until: str = ""


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """The thoughts of a model, and their bound in a request.

    Attributes:
        begin: text before the thoughts.
        end: text after them.
        begin_tokens: token ids of `begin`; one where it is a token of its own.
        end_tokens: token ids of `end`.
        expected: whether the model thinks in this request; an answer with guidance then begins
            with thoughts.
        budget: maximum length of the thoughts, tokens: then the engine ends them; None for any.
    """

    begin: str
    end: str
    begin_tokens: tuple[int, ...]
    end_tokens: tuple[int, ...]
    expected: bool = True
    budget: int | None = None


class TokenIds(msgspec.Struct, frozen=True):
    """A raw prompt that is tokenized already; no special tokens are put around it."""

    ids: tuple[int, ...]


RawPrompt = str | TokenIds
Prompt = tuple[Message, ...] | RawPrompt


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A prompt and its generation parameters.

    Attributes:
        prompt: a conversation, which goes through the model's chat template, or raw text.
        prompts: raw prompts in place of that one; their answers, `n` of each, follow in order.
        echo: begin each answer with its raw prompt, with log probabilities where the answer has
            them. A token that ends the answer is then reported like all others.
        continues: the last message is the beginning of the answer.
        tools: JSON array of the tools for the chat template; empty for none.
        arguments: further arguments of the chat template, such as a switch for thinking.
        max_tokens: maximum length of an answer, tokens; the context length may end it earlier.
        n: number of answers to a prompt; answer number i has seed + i.
        temperature: softmax temperature; 0 is greedy decoding.
        top_p: sample from the most likely tokens that together have this probability, 0 to 1.
        top_k: sample from this many most likely tokens; 0 for all.
        min_p: sample from tokens at least this share as likely as the most likely one; 0 for all.
        repetition_penalty: above 1 makes tokens of prompt and answer less likely (CTRL,
            arXiv:1909.05858).
        frequency_penalty: subtracted from a token's score for each occurrence in the answer.
        presence_penalty: subtracted from a token's score if the token occurs in the answer.
        logit_bias: token ids, and what is added to their scores.
        logprobs: number of most likely alternatives to report with each token; None for no
            log probabilities at all.
        num_beams: width of a beam search; 1 for no beam search.
        stop: stop strings; the answer ends before the first one in its free text, which thoughts
            are not part of.
        seed: seed of the sampler; None for a random one each time.
        guidance: constraint on the answer's text, thoughts excluded; None for unconstrained text.
        thinking: the model's thoughts; None to leave them in the text.
        shown: special tokens that are part of the answer's text: id and text.
        adapter: name of an adapter of the release; empty for the model itself.
        counts: only count the prompt's tokens, however many they are.
        quicker: the way to a request that takes less time, for hints.
    """

    quicker: ClassVar[str] = "Lower max_tokens"
    prompt: tuple[Message, ...] | str
    max_tokens: int
    prompts: tuple[RawPrompt, ...] = ()
    echo: bool = False
    continues: bool = False
    tools: str = ""
    arguments: dict[str, Any] = {}
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
    thinking: Thinking | None = None
    shown: tuple[tuple[int, str], ...] = ()
    adapter: str = ""
    counts: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts and latencies of a request.

    Attributes:
        prompt_tokens: length of the prompt.
        completion_tokens: tokens generated, end tokens included, of all answers.
        reasoning_tokens: those of thoughts, markers included.
        cached_tokens: prompt tokens that were in the prompt cache.
        first_token_s: seconds from the start of prefill to the first token; queueing excluded.
        decode_s: seconds from the first token to the last.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    first_token_s: float
    decode_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Decode throughput, tokens per second; None for an answer of fewer than two tokens."""
        if self.completion_tokens < 2 or self.decode_s <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_s


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token's log probability, before temperature, penalties and bias.

    Attributes:
        token: the token's id.
        data: the token's bytes, which may be a part of a character.
        logprob: natural logarithm of the token's probability; None for the first of a prompt.
        top: the most likely tokens at this position: bytes and log probability.
        characters: characters of the text that the token completes; 0 for special tokens.
    """

    token: int
    data: bytes
    logprob: float | None
    top: tuple[tuple[bytes, float], ...] = ()
    characters: int = 0


class GenerationChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """A piece of an answer.

    Attributes:
        index: number of the answer, from 0; answers are generated one after the other.
        thoughts: whole characters of the model's thoughts, which precede its answer.
        text: whole characters; may be empty.
        tokens: tokens of this answer generated so far.
        logprobs: log probabilities of the tokens that this chunk adds, if requested.
        finish_reason: reason the answer ended; only in its last chunk.
        stop: the stop string that ended the answer; empty in all other chunks.
        prompt_tokens: length of the prompt; only in the first chunk.
        waits: the next token waits for a run, which answers that wait at the same time share;
            only in empty chunks.
        usage: usage of the request; only in the last chunk of the last answer.
    """

    index: int = 0
    thoughts: str = ""
    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str = ""
    prompt_tokens: int = 0
    waits: bool = False
    usage: Usage | None = None

    @property
    def is_empty(self) -> bool:
        """True if the chunk tells nothing but that work goes on."""
        return not (self.thoughts or self.text or self.logprobs or self.finish_reason)


class PromptTooLongError(RequestError):
    """The prompt leaves no room for an answer in the model's context."""

    wire_name = "prompt_too_long"
    api_code = "context_length_exceeded"


class UnknownTokenError(RequestError):
    """The request names a token that is not in the model's vocabulary."""

    wire_name = "unknown_token"
    param = "logit_bias"


class ImageError(RequestError):
    """An image of the prompt cannot be used."""

    wire_name = "image"
    api_code = "invalid_image"


class OutOfMemoryError(RequestError):
    """The KV cache budget cannot hold this request, even with nothing else running."""

    wire_name = "out_of_memory"
    api_code = "kv_cache_too_small"
    param = "max_tokens"


class NoMemoryNowError(ServiceError):
    """The device has too little free memory for this request at the moment."""

    wire_name = "no_memory_now"
    api_code = "insufficient_memory"
    refuses = True


class Engine(Protocol):
    """A loaded model."""

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Generator[GenerationChunk]:
        """Answer a request.

        The first chunk is empty and precedes all work: the request is accepted. More empty chunks
        may follow between two steps, so that other requests can run. The last
        chunk has the usage.

        Args:
            request: the request to answer.
            cancelled: polled often; once it returns True, the answer soon ends with `CANCELLED`.

        Raises:
            RequestError: before the first chunk, if the model cannot take this request.
            EngineError: the model fails.
        """
        ...

    def warm(self, system: str) -> None:
        """Set the prefix to prefill in idle time: what all conversations begin with.

        Args:
            system: the system prompt; empty for the chat template's own prefix.
        """
        ...

    def idle(self) -> bool:
        """Do one step of background prefill for later requests; False if there is none to do."""
        ...


def images_of(messages: Sequence[Message]) -> list[bytes]:
    """List the files of a conversation's images."""
    return [
        part.data
        for message in messages
        if not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, Image)
    ]


def no_memory(error: Exception) -> ResourceError:
    """Return the error for a model that memory is too short for.

    Args:
        error: the failure, perhaps of native code.
    """
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ResourceError(
        f"not enough memory to load the model: {reason}",
        hint="Stop other programs, raise the limits of this one (ulimit -v, MemoryMax), or use a "
        "smaller model.",
    )


def adapters(model_folder: Path) -> dict[str, Path]:
    """List the ONNX Runtime adapter files beside a model, by name."""
    paths = sorted((model_folder / "adapters").glob("*.onnx_adapter"))
    return {path.stem: path for path in paths}

"""The engine: requests in, chunks out, on a model in ONNX Runtime GenAI."""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runtime import memory
from device_runtime.errors import EngineError, RequestError
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    NoMemoryNowError,
    OutOfMemoryError,
    TokenLogprob,
    UnknownTokenError,
    Usage,
)
from device_runtime.inference.genai_model import ENGINE_HINT, GenAIModel, first_line
from device_runtime.inference.kv_cache import LEAST_READ, Kind, KvCache, Slot, Tokens, step
from device_runtime.inference.sampling import Sampler, Scores, log_probabilities, most_likely
from device_runtime.inference.stop_strings import StopStrings
from device_runtime.logs import event

log = logging.getLogger(__name__)

PROMPT_STEP = 128
"""Tokens of a prompt processed at once: cancelling takes effect between two steps, and on a CPU
smaller steps are slower while larger ones are not faster."""

LONG_ROPE_FROM = 4096
"""Tokens beyond which Phi-3.5 uses its long rotary factors, for all that came before as well: a
longer prompt must be processed at once, for nothing of it may be in the cache with short ones."""

CONVERSATIONS = 4
"""KV caches of the whole context that are kept where memory allows it."""

FIRST_TURN = 1024
"""Tokens for which a warmed KV cache has room: a first question and its answer."""


class _Progress:
    """What is counted of one request while it is answered."""

    def __init__(self, prompt_tokens: int) -> None:
        self.cached_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._tokens = 0
        self._started = time.monotonic()
        self._first_at = self._last_at = self._started

    def add(self, tokens: int = 1) -> None:
        """So many tokens were generated just now."""
        self._last_at = time.monotonic()
        if not self._tokens:
            self._first_at = self._last_at
        self._tokens += tokens

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self.cached_tokens,
            first_token_s=self._first_at - self._started,
            decode_s=self._last_at - self._first_at,
        )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request with all that it takes to answer it.

    Attributes:
        slot: where its prompt goes.
        request: itself.
        prompt: its tokens.
        length: most tokens of prompt and answer together.
        progress: what was done.
        cancelled: whether nobody wants it any more.
    """

    slot: Slot
    request: GenerationRequest
    prompt: Tokens
    length: int
    progress: _Progress
    cancelled: Callable[[], bool]


class GenAIEngine:
    """Implements `Engine`."""

    def __init__(
        self, model_folder: Path, *, context_length: int, threads: int, kv_cache_bytes: int = 0
    ) -> None:
        """Load the model.

        Args:
            model_folder: holds genai_config.json, the graph and the tokenizer.
            context_length: most tokens of prompt and answer together.
            threads: of ONNX Runtime; 0 leaves the number to it.
            kv_cache_bytes: memory for the KV caches of running and remembered conversations; 0
                for what `CONVERSATIONS` of them need, or half of what is free.

        Raises:
            EngineError: the model does not load.
        """
        self._model = GenAIModel(model_folder, context_length=context_length, threads=threads)
        whole = max(context_length, self._model.least_capacity) * self._model.kv_bytes
        self._budget = kv_cache_bytes or min(CONVERSATIONS * whole, memory.available() // 2)
        self._cache = KvCache(
            self._model.generator,
            token_bytes=self._model.kv_bytes,
            budget=self._budget,
            context_length=context_length,
            least=self._model.least_capacity,
            available=memory.available,
        )
        self._warm = np.empty(0, np.int32)

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Generator[GenerationChunk]:
        """See `Engine.generate`."""
        prompt = self._model.encode(request)
        length = min(len(prompt) + request.max_tokens, self._model.context_length)
        self._check(request, length)
        progress = _Progress(len(prompt))
        slot = self._slot(request, prompt, length)
        yield GenerationChunk()
        while slot is None:
            if cancelled():
                yield GenerationChunk(finish_reason=FinishReason.CANCELLED, usage=progress.usage)
                return
            # Others have the memory; they get on meanwhile.
            yield GenerationChunk()
            slot = self._slot(request, prompt, length)
        job = _Job(
            slot=slot,
            request=request,
            prompt=prompt,
            length=length,
            progress=progress,
            cancelled=cancelled,
        )
        try:
            yield from self._beams(job) if request.num_beams > 1 else self._answers(job)
        except RuntimeError as error:
            self._cache.drop(slot)
            raise EngineError(f"the model failed: {first_line(error)}", hint=ENGINE_HINT) from None
        finally:
            if self._stands_alone(request, length):
                self._cache.drop(slot)
            self._cache.give_back(slot)

    def warm(self, system: str) -> None:
        """See `Engine.warm`."""
        turns = (Message(role="system", content=system),) if system else ()
        try:
            first, second = (
                self._model.encode(
                    GenerationRequest(
                        prompt=(*turns, Message(role="user", content=other)), max_tokens=1
                    )
                )
                for other in "ab"
            )
        except RequestError as error:
            event(log, logging.INFO, "not_warmed", reason=error)
            return
        shorter = min(len(first), len(second))
        differs = np.flatnonzero(first[:shorter] != second[:shorter])
        self._warm = first[: differs[0] if len(differs) else shorter]

    def idle(self) -> bool:
        """Read again what was generated, then what new conversations begin with."""
        try:
            for slot in reversed(self._cache.slots):
                if not slot.busy and slot.reread(PROMPT_STEP):
                    return True
            return self._cache.warm(self._warm, FIRST_TURN, PROMPT_STEP)
        except RuntimeError:
            # A model that cannot rewind: nothing can be prepared for it.
            self._warm = self._warm[:0]
            self._cache.clear()
            return False

    def _check(self, request: GenerationRequest, length: int) -> None:
        """What can be refused before any work is done."""
        if not self._cache.fits(length * request.num_beams):
            needed = length * request.num_beams * self._model.kv_bytes
            raise OutOfMemoryError(
                f"prompt and answer of {length} tokens take {needed >> 20} MiB of KV cache; this "
                f"device has {self._budget >> 20} MiB for it",
                hint="Lower max_tokens, or shorten the prompt.",
            )
        for token, _ in request.logit_bias:
            if token >= self._model.vocabulary:
                raise UnknownTokenError(
                    f"logit_bias: there is no token {token}; the model has {self._model.vocabulary}"
                )

    def _stands_alone(self, request: GenerationRequest, length: int) -> bool:
        """Whether a request shares no KV cache with others."""
        return request.num_beams > 1 or (self._model.long_rope and length > LONG_ROPE_FROM)

    def _slot(self, request: GenerationRequest, prompt: Tokens, length: int) -> Slot | None:
        """A slot for a request; None while running ones have the memory.

        Raises:
            NoMemoryNowError: it is not them who have it.
        """
        kind = Kind(guidance=request.guidance, adapter=request.adapter)
        if self._stands_alone(request, length):
            capacity = max(length, self._model.least_capacity)
            slot = self._cache.reserve(capacity * request.num_beams, kind)
            if slot is not None:
                slot.generator = self._model.generator(capacity, kind, request.num_beams)
        else:
            slot = self._cache.take(prompt.tolist(), length, kind)
        if slot is None and self._cache.idle:
            raise NoMemoryNowError(
                "the device has no memory left for this request",
                hint="Lower max_tokens, or end other programs on the device.",
            )
        return slot

    def _answers(self, job: _Job) -> Iterator[GenerationChunk]:
        """All answers, one after the other, each from the same prompt."""
        slot, prompt = job.slot, job.prompt
        job.progress.cached_tokens = len(slot.tokens)
        for index in range(job.request.n):
            if index:
                slot.rewind(max(0, len(prompt) - LEAST_READ))
            while len(slot.tokens) < len(prompt):
                if job.cancelled():
                    yield _end(job, FinishReason.CANCELLED, index=index)
                    return
                rest = prompt[len(slot.tokens) :]
                whole = self._stands_alone(job.request, job.length)
                slot.append(rest if whole else rest[: step(len(rest), PROMPT_STEP)])
                yield GenerationChunk()
            reason = yield from self._decode(job, index)
            if reason is FinishReason.CANCELLED:
                return

    def _decode(self, job: _Job, index: int) -> Generator[GenerationChunk, None, FinishReason]:
        """One answer, token by token; returns why it ended."""
        request, generator = job.request, job.slot.generator
        stream = self._model.stream()
        stops = StopStrings(request.stop)
        sampler = Sampler(request, job.prompt, index)
        shown = dict(request.shown)
        text = ""
        tokens = 0
        reason: FinishReason | None = None
        while reason is None:
            if job.cancelled():
                reason = FinishReason.CANCELLED
                break
            logits: Scores | None = None
            if sampler.changes_scores or request.logprobs is not None:
                logits = generator.get_logits()[0, -1]
                if sampler.changes_scores:
                    generator.set_logits(sampler.scores(logits)[None, None])
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            tokens += 1
            job.slot.add(token)
            sampler.add(token)
            job.progress.add()
            if token in self._model.end_tokens:
                reason = FinishReason.STOP
                break
            # The tokenizer leaves special tokens out of a text.
            text, stopped = stops.push(shown.get(token) or stream.decode(token))
            if stopped:
                reason = FinishReason.STOP
                break
            if tokens == job.length - len(job.prompt):
                reason = FinishReason.LENGTH
            logprobs = self._logprobs(logits, token, request)
            yield GenerationChunk(index=index, text=text, tokens=tokens, logprobs=logprobs)
            text = ""
        yield _end(job, reason, text + stops.rest(), tokens, index=index)
        return reason

    def _logprobs(
        self, logits: Scores | None, token: int, request: GenerationRequest
    ) -> tuple[TokenLogprob, ...]:
        if logits is None or request.logprobs is None:
            return ()
        found = log_probabilities(logits)
        names = self._model.token_bytes
        top = tuple(
            (names[int(other)], float(found[other]))
            for other in most_likely(found, request.logprobs)
        )
        return (TokenLogprob(data=names[token], logprob=float(found[token]), top=top),)

    def _beams(self, job: _Job) -> Iterator[GenerationChunk]:
        """The best answer of a beam search, at once."""
        generator, prompt = job.slot.generator, job.prompt
        generator.append_tokens(prompt)
        for _ in range(job.length - len(prompt)):
            if job.cancelled():
                yield _end(job, FinishReason.CANCELLED)
                return
            generator.generate_next_token()
            if generator.is_done():
                break
            yield GenerationChunk()
        found = [int(token) for token in generator.get_sequence(0)[len(prompt) :]]
        ends = [place for place, token in enumerate(found) if token in self._model.end_tokens]
        answer = found[: ends[0]] if ends else found
        tokens = len(answer) + bool(ends)
        job.progress.add(tokens)
        stops = StopStrings(job.request.stop)
        text, stopped = stops.push(self._model.decode(answer))
        reason = FinishReason.STOP if ends or stopped else FinishReason.LENGTH
        yield _end(job, reason, text + stops.rest(), tokens)


def _end(
    job: _Job, reason: FinishReason, text: str = "", tokens: int = 0, *, index: int = 0
) -> GenerationChunk:
    """An answer's last chunk."""
    over = index == job.request.n - 1 or reason is FinishReason.CANCELLED
    return GenerationChunk(
        index=index,
        text=text,
        tokens=tokens,
        finish_reason=reason,
        usage=job.progress.usage if over else None,
    )

"""The engine on ONNX Runtime GenAI: requests in, chunks out."""

import logging
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from device_runtime import memory
from device_runtime.errors import RequestError
from device_runtime.inference.answer_text import AnswerText
from device_runtime.inference.beam_search import beam_search
from device_runtime.inference.decoder import Decoder
from device_runtime.inference.echo import Echo, token_logprob
from device_runtime.inference.engine import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    NoMemoryNowError,
    OutOfMemoryError,
    TokenLogprob,
    UnknownTokenError,
)
from device_runtime.inference.genai_library import Loading
from device_runtime.inference.genai_model import GenAIModel, failure
from device_runtime.inference.hidden_states import HiddenStatesEmbedder
from device_runtime.inference.job import Job, end
from device_runtime.inference.kv_cache import MAX_SLOTS, MIN_PREFILL, KvCache, Slot, Tokens, step
from device_runtime.inference.piece import Piece
from device_runtime.inference.prefix_file import PrefixFile
from device_runtime.inference.progress import Progress
from device_runtime.inference.prompt_encoder import EncodedPrompt, texts
from device_runtime.inference.sampling import Sampler, Scores
from device_runtime.inference.text_sequences import TextSequences
from device_runtime.logs import event
from device_runtime.memory import PROMPT_STEP
from device_runtime.processor import Processor

log = logging.getLogger(__name__)

MEMORY_HINT = "Lower max_tokens, or stop other programs on the device."

HEADING = 16
"""Tokens at the end of a prompt before which a snapshot is taken, where a model needs one: more
than the heading of an answer, which chat templates write otherwise once the answer is there."""

CONVERSATIONS = 4
"""Number of full-context KV caches to keep, memory permitting."""

FIRST_TURN = 1024
"""Room for a first question and its answer after a warmed prefix, tokens."""


class GenAIEngine:
    """Implements `Engine`."""

    def __init__(
        self,
        model_folder: Path,
        *,
        context_length: int,
        threads: int,
        kv_cache_bytes: int = 0,
        processor: Processor = Processor.CPU,
        loading: Loading | None = None,
        prefix_file: PrefixFile | None = None,
    ) -> None:
        """Load the model.

        Args:
            model_folder: holds genai_config.json, the graph and the tokenizer.
            context_length: maximum length of prompt and answer together, tokens.
            threads: number of ONNX Runtime threads; 0 for one a core.
            kv_cache_bytes: memory for the KV caches of running and cached conversations; 0 for
                what `CONVERSATIONS` of them need, at most half of the free memory.
            processor: processor that the model runs on.
            loading: the model, if it loads already.
            prefix_file: file for the KV cache of what all conversations begin with; None for none.

        Raises:
            EngineError: the model does not load.
        """
        self._model = GenAIModel(
            model_folder,
            context_length=context_length,
            threads=threads,
            processor=processor,
            loading=loading,
        )
        whole = max(context_length, self._model.min_capacity) * self._model.kv_bytes
        whole += self._model.state_bytes
        self._budget = kv_cache_bytes or min(CONVERSATIONS * whole, memory.available() // 2)
        self._cache = KvCache(
            self._model.generator,
            token_bytes=self._model.kv_bytes,
            state_bytes=self._model.state_bytes,
            snapshots=self._model.snapshots,
            returns=self._model.sequences.rows > 0,
            most=self._model.sequences.rows or MAX_SLOTS,
            budget=self._budget,
            context_length=context_length,
            least=self._model.min_capacity,
            available=memory.available,
        )
        self._warm = np.empty(0, np.int32)
        self._prefix_file = prefix_file
        self._writing: Iterator[bool] = iter(())

    def generate(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Generator[GenerationChunk]:
        """See `Engine.generate`."""
        try:
            yield from self._prompts(request, cancelled)
        except (RuntimeError, FloatingPointError, MemoryError) as error:
            raise failure(error, MEMORY_HINT) from None

    def _prompts(
        self, request: GenerationRequest, cancelled: Callable[[], bool]
    ) -> Iterator[GenerationChunk]:
        """Answer the prompts of a request one after the other."""
        prompts = request.prompts or (request.prompt,)
        encoded = [self._model.prompts.encode(request, prompt) for prompt in prompts]
        progress = Progress(sum(len(prompt.tokens) for prompt in encoded))
        accepted = GenerationChunk(prompt_tokens=progress.usage.prompt_tokens)
        if request.counts:
            yield accepted
            yield GenerationChunk(finish_reason=FinishReason.STOP, usage=progress.usage)
            return
        for prompt in encoded:
            self._check(request, self._length(request, prompt.tokens))
        for number, (text, prompt) in enumerate(zip(prompts, encoded, strict=True)):
            tokens = prompt.tokens
            length = self._length(request, tokens)
            alone = self._stands_alone(request, prompt, length)
            stage = self._model.stage(request, tokens)
            grammar = self._model.grammar(request, stage)
            slot = self._slot(request, tokens, length, alone=alone)
            yield GenerationChunk() if number else accepted
            while slot is None and not cancelled():
                # Running requests hold the memory; the empty chunk lets them continue.
                yield GenerationChunk()
                slot = self._slot(request, tokens, length, alone=alone)
            if slot is None:
                yield GenerationChunk(finish_reason=FinishReason.CANCELLED, usage=progress.usage)
                return
            job = Job(
                slot=slot,
                request=request,
                number=number,
                prompt=tokens,
                inputs=self._model.inputs(prompt) if prompt.images else None,
                alone=alone,
                stage=stage,
                grammar=grammar,
                length=length,
                echo=Echo(request, text, tokens, self._model.tokenizer) if request.echo else None,
                progress=progress,
                cancelled=cancelled,
            )
            reason = yield from self._run(job)
            if reason is FinishReason.CANCELLED:
                return

    def embedder(self, output: str) -> HiddenStatesEmbedder:
        """Return an embedder of the hidden states in an output of the graph.

        It takes its KV caches from the same memory as answers.
        """
        return HiddenStatesEmbedder(self._model, self._cache, output)

    def warm(self, system: str) -> None:
        """See `Engine.warm`."""
        turns = (Message(role="system", content=system),) if system else ()
        try:
            first, second = (
                self._model.prompts.encode(
                    GenerationRequest(prompt=prompt, max_tokens=1), prompt
                ).tokens
                for prompt in ((*turns, Message(role="user", content=text)) for text in "ab")
            )
        except RequestError as error:
            event(log, logging.INFO, "not_warmed", reason=error)
            return
        shorter = min(len(first), len(second))
        differs = np.flatnonzero(first[:shorter] != second[:shorter])
        self._warm = first[: differs[0] if len(differs) else shorter]
        sequences = self._model.sequences
        if self._prefix_file is not None and isinstance(sequences, TextSequences):
            layout = sequences.layout
            self._writing = self._prefix_file.load(self._cache, self._warm, FIRST_TURN, layout)

    def idle(self) -> bool:
        """Prefill generated tokens again, then the prefix of new conversations, and keep it."""
        try:
            for slot in reversed(self._cache.slots):
                if not slot.busy and slot.prefill_generated(PROMPT_STEP):
                    return True
            if next(self._writing, False):
                return True
            return self._cache.warm(self._warm, FIRST_TURN, PROMPT_STEP)
        except RuntimeError:
            # A model that cannot rewind: nothing can be prefilled ahead for it.
            self._warm = self._warm[:0]
            self._cache.clear()
            return False

    def _length(self, request: GenerationRequest, prompt: Tokens) -> int:
        """Return the maximum length of a prompt and its answer together, tokens."""
        return min(len(prompt) + request.max_tokens, self._model.most(len(prompt)))

    def _run(self, job: Job) -> Generator[GenerationChunk, None, FinishReason]:
        """Answer a prompt; return the reason why its last answer ended."""
        try:
            beams = job.request.num_beams > 1
            answers = beam_search(self._model, job) if beams else self._answers(job)
            return (yield from answers)
        except (RuntimeError, FloatingPointError, MemoryError):
            self._cache.drop(job.slot)
            raise
        finally:
            if job.alone:
                self._cache.drop(job.slot)
            self._cache.give_back(job.slot)

    def _check(self, request: GenerationRequest, length: int) -> None:
        """Refuse, before any work, a request that can never succeed."""
        if not self._cache.fits(length * request.num_beams):
            needed = length * request.num_beams * self._model.kv_bytes
            raise OutOfMemoryError(
                f"prompt and answer of {length} tokens need {needed >> 20} MiB of KV cache; this "
                f"device has {self._budget >> 20} MiB for it",
                hint="Lower max_tokens, or shorten the prompt.",
            )
        if request.num_beams > 1 and not self._model.beams:
            raise RequestError(
                "num_beams must be 1: this model sees, or has layers with a state or (on a GPU) "
                "sliding windows, of which the engine cannot keep several versions",
                hint="Sample several answers with n instead.",
            )
        for token, _ in request.logit_bias:
            if token >= self._model.sequences.vocabulary:
                raise UnknownTokenError(
                    f"logit_bias: token {token} is not in the model's vocabulary "
                    f"(0 to {self._model.sequences.vocabulary - 1})"
                )

    def _stands_alone(self, request: GenerationRequest, prompt: EncodedPrompt, length: int) -> bool:
        """Return whether a prompt needs a KV cache that no other request shares."""
        shared = request.num_beams == 1 and not prompt.images and not self._one_by_one(request)
        return not shared or self._model.at_once(length)

    def _one_by_one(self, request: GenerationRequest) -> bool:
        """Return whether each token of a prompt takes a run, for the logits before it."""
        scored = request.echo and request.logprobs is not None
        return scored and not self._model.sequences.all_logits

    def _slot(
        self, request: GenerationRequest, prompt: Tokens, length: int, *, alone: bool
    ) -> Slot | None:
        """Get a slot for a prompt; None while running requests hold the memory.

        Raises:
            NoMemoryNowError: other programs hold the memory.
        """
        adapter = request.adapter
        if alone:
            capacity = max(length, self._model.min_capacity)
            beams = request.num_beams
            make = partial(self._model.generator, capacity, adapter, beams)
            slot = self._cache.reserve(capacity * beams, adapter, make)
        else:
            slot = self._cache.take(prompt.tolist(), length, adapter)
        if slot is None and self._cache.idle:
            raise NoMemoryNowError(
                "the device has too little free memory for this request", hint=MEMORY_HINT
            )
        return slot

    def _answers(self, job: Job) -> Generator[GenerationChunk, None, FinishReason]:
        """Generate all answers, one after the other, from the same prompt."""
        slot, prompt = job.slot, job.prompt
        if job.echo is not None and job.echo.scored:
            self._rewind(slot, 0)
        job.progress.cached_tokens += len(slot.tokens)
        reason = FinishReason.LENGTH
        for index in range(job.request.n):
            if index:
                # As far as necessary for the prompt's last logits.
                self._rewind(slot, max(0, len(prompt) - MIN_PREFILL))
            while len(slot.tokens) < len(prompt):
                if job.cancelled():
                    yield end(job, FinishReason.CANCELLED, index=index)
                    return FinishReason.CANCELLED
                self._prefill(job, index)
                yield GenerationChunk()
            if job.echo is not None:
                echoed = tuple(job.echo.logprobs)
                yield GenerationChunk(index=job.place(index), text=job.echo.text, logprobs=echoed)
            reason = yield from self._decode(job, index)
            if reason is FinishReason.CANCELLED:
                break
        return reason

    def _prefill(self, job: Job, index: int) -> None:
        """Prefill the next chunk of the prompt, for an answer."""
        before = len(job.slot.tokens)
        self._prefill_chunk(job)
        if job.echo is not None and job.echo.scored and index == 0:
            logits = job.slot.generator.get_output("logits")[0]
            if len(logits) != len(job.slot.tokens) - before:
                # A prompt with images is prefilled at once.
                raise RequestError("this model gives no log probabilities of its prompt")
            job.echo.add(logits)

    def _prefill_chunk(self, job: Job) -> None:
        slot = job.slot
        rest = job.prompt[len(slot.tokens) :]
        if job.inputs is not None:
            slot.begin(rest, job.inputs)
            return
        if job.alone:
            slot.append(rest[:1] if self._one_by_one(job.request) else rest)
            return
        before_end = len(rest) - HEADING
        to_snapshot = self._model.snapshots and before_end >= MIN_PREFILL
        tokens = before_end if to_snapshot else len(rest)
        chunk = rest[: step(tokens, PROMPT_STEP)]
        slot.append(chunk)
        if to_snapshot and len(chunk) == tokens:
            slot.snapshot()

    def _rewind(self, slot: Slot, length: int) -> None:
        """Rewind a slot to this length, or to nothing if its model cannot."""
        try:
            slot.rewind(length)
        except RuntimeError:
            slot.restart(self._model.generator(slot.capacity, slot.adapter))

    def _decode(self, job: Job, index: int) -> Generator[GenerationChunk, None, FinishReason]:
        """Generate one answer token by token; return the reason it ended."""
        request = job.request
        answer = AnswerText(request, self._model.stream(request), job.stage)
        sampler = Sampler(request, texts(job.prompt), index)
        scored = request.logprobs is not None
        decoder = Decoder(job.slot, sampler, job.grammar and job.grammar.copy(), scored=scored)
        piece = Piece()
        tokens = 0
        reason = None if job.length > len(job.prompt) else FinishReason.LENGTH
        while reason is None:
            if job.cancelled():
                reason = FinishReason.CANCELLED
                break
            if decoder.join_step():
                yield GenerationChunk(waits=True)
            token = decoder.next(answer.forced)
            tokens += 1
            job.progress.add()
            if token in self._model.end_tokens:
                reason = FinishReason.STOP
                if job.echo is not None:
                    piece.logprobs = self._logprobs(decoder.logits, token, request)
                break
            piece.add(*answer.push(token))
            if answer.stop:
                reason = FinishReason.STOP
                break
            piece.logprobs = self._logprobs(decoder.logits, token, request, answer.characters)
            if tokens == job.length - len(job.prompt):
                reason = FinishReason.LENGTH
            yield piece.next_chunk(job.place(index), tokens)
        piece.add(*answer.end())
        if answer.stop and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP
        job.progress.reasoning_tokens += answer.reasoning_tokens
        yield end(job, reason, piece, tokens, index=index, stop=answer.stop)
        return reason

    def _logprobs(
        self, logits: Scores | None, token: int, request: GenerationRequest, characters: int = 0
    ) -> tuple[TokenLogprob, ...]:
        if logits is None or request.logprobs is None:
            return ()
        count = request.logprobs
        tokenizer = self._model.tokenizer
        return (token_logprob(tokenizer, token, logits, count=count, characters=characters),)

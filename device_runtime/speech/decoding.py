"""Writing down a recording with Whisper, window by window.

A recording that fits into a window is decoded with times if the request asks for them. Of a longer
one, times also say where the next window begins. Tokens and parts are those of transformers'
`generate`, with one difference: nothing is written down of the silence with which the end of a
recording is made as long as a window.
"""

from collections.abc import Callable, Iterator

import numpy as np

from device_runtime.inference.progress import Progress
from device_runtime.inference.sampling import Scores, log_probabilities
from device_runtime.speech.log_mel import FRAMES_A_SECOND, WINDOW, LogMel
from device_runtime.speech.model import SpeechModel, WindowText
from device_runtime.speech.parts import Part, Parts
from device_runtime.speech.recording import Recording
from device_runtime.speech.transcription import (
    Segment,
    TranscriptionChunk,
    TranscriptionRequest,
)

SILENT = 0.6
UNLIKELY = -1.0
"""With a probability of silence above the one, and a mean log probability of its tokens below the
other, nobody speaks in a window, whatever was written (as in OpenAI's own program)."""


class SpeechDecoding:
    """A recording that is being written down.

    Args:
        model: the model.
        recording: the recording.
        request: what is known of it; the model can do what it asks for.
        cancelled: polled before each step.

    Raises:
        RequestError: the prompt has special tokens.
    """

    def __init__(
        self,
        model: SpeechModel,
        recording: Recording,
        request: TranscriptionRequest,
        cancelled: Callable[[], bool],
    ) -> None:
        self._model = model
        self._recording = recording
        self._request = request
        self._cancelled = cancelled
        self._mel = LogMel(recording, model.bands)
        self._timed = request.timestamps or not self._mel.is_short
        self._language = request.language or ("" if model.special.languages else "en")
        self._prompt = [*model.prompt(request.prompt), model.special.start]
        marks = model.marks(self._language, request.task, timed=self._timed)
        self._room = model.context_length - len(self._prompt) - len(marks)
        self._progress = Progress(len(self._prompt) + len(marks))
        self._random = np.random.default_rng()
        self._seek = 0
        self._begun = False

    def chunks(self) -> Iterator[TranscriptionChunk]:
        """Yield all chunks but the first.

        Raises:
            RuntimeError: the model fails.
            FloatingPointError: it computes numbers that are not finite.
        """
        for _ in self._mel.listen():
            if self._cancelled():
                break
            yield TranscriptionChunk()
        while self._seek < self._mel.frames and not self._cancelled():
            yield from self._write_window()
        yield TranscriptionChunk(
            language=self._language,
            seconds=self._recording.seconds,
            usage=self._progress.usage,
        )

    def _write_window(self) -> Iterator[TranscriptionChunk]:
        """Write down a window, and move on to the next."""
        features = self._mel.window(self._seek)
        text = self._model.begin(features, self._prompt)
        logits = text.logits()
        silence = self._model.silence(logits)
        yield TranscriptionChunk()
        if not self._language:
            if len(self._prompt) > 1:
                # The language is heard without the prompt.
                logits = self._model.begin(features, self._prompt[-1:]).logits()
                yield TranscriptionChunk()
            self._language = self._model.language(logits)
        marks = self._model.marks(self._language, self._request.task, timed=self._timed)
        if marks:
            text.append(marks)
        window = _Window(self._model, self._mel.frames - self._seek, timed=self._timed)
        held = ""
        for piece in self._pieces(text, window):
            # Perhaps nobody speaks: that is known at the end.
            held += piece
            if silence <= SILENT:
                yield self._chunk(held)
                held = ""
            else:
                yield TranscriptionChunk()
        if self._cancelled():
            return
        last, advance = window.end()
        if silence > SILENT and window.avg_logprob < UNLIKELY:
            self._seek += window.frames
            return
        segments = window.parts if self._request.timestamps else []
        yield self._chunk(held + last, [self._segment(part, window, silence) for part in segments])
        self._seek += advance

    def _pieces(self, text: WindowText, window: "_Window") -> Iterator[str]:
        """Write the text of a window, token by token; yield what is certain with each."""
        special = self._model.special
        while len(window.tokens) < self._room and not self._cancelled():
            scores = special.scores(text.logits(), window.tokens, timed=self._timed)
            token = self._choose(scores)
            self._progress.add()
            window.count(log_probabilities(scores)[token])
            if token == special.end:
                return
            yield window.push(token)
            if len(window.tokens) < self._room:
                text.append([token])

    def _choose(self, scores: Scores) -> int:
        """Choose a token: the most likely one, or a sample (see `sampling`)."""
        if self._request.temperature > 0:
            noise = self._random.gumbel(size=len(scores))
            return int(np.argmax(scores / self._request.temperature + noise))
        return int(np.argmax(scores))

    def _chunk(self, text: str, segments: list[Segment] | None = None) -> TranscriptionChunk:
        """Make a chunk; the space that begins a text is left out."""
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return TranscriptionChunk(text=text, segments=tuple(segments or ()))

    def _segment(self, part: Part, window: "_Window", silence: float) -> Segment:
        offset = self._seek / FRAMES_A_SECOND
        return Segment(
            start=offset + part.start,
            end=min(offset + part.end, self._recording.seconds),
            text=self._model.text(part.tokens),
            tokens=part.tokens,
            temperature=self._request.temperature,
            avg_logprob=window.avg_logprob,
            no_speech_prob=silence,
            seek=self._seek,
        )


class _Window:
    """The text of a window in the making.

    Args:
        model: the model.
        frames: frames from its beginning to the end of the recording.
        timed: whether it is written with times.

    Attributes:
        frames: its frames of the recording.
        parts: the parts of its text that are certain, those without words left out.
    """

    def __init__(self, model: SpeechModel, frames: int, *, timed: bool) -> None:
        self.frames = min(WINDOW, frames)
        self.parts: list[Part] = []
        self._model = model
        self._cut = Parts(model.special.first_time, self.frames)
        self._stream = None if timed else model.tokenizer.stream()
        self._logprob = 0.0
        self._count = 0

    @property
    def tokens(self) -> list[int]:
        """All tokens so far."""
        return self._cut.tokens

    @property
    def avg_logprob(self) -> float:
        """The mean log probability of its tokens, the one that ends it included."""
        return self._logprob / max(1, self._count)

    def count(self, logprob: float) -> None:
        """Count a token, also the one that ends the text."""
        self._logprob += float(logprob)
        self._count += 1

    def push(self, token: int) -> str:
        """Take the next token of the text; return the text that is certain with it."""
        part = self._cut.push(token)
        if self._stream is None:
            return self._keep(part)
        return self._stream.push(token) if token < self._model.special.end else ""

    def end(self) -> tuple[str, int]:
        """End the text.

        Returns:
            The rest of it, and how far the next window begins from this one, frames.
        """
        part, advance = self._cut.end()
        return (self._keep(part), advance) if self._stream is None else ("", self.frames)

    def _keep(self, part: Part | None) -> str:
        """Keep a part, and return its text; one beyond the end of the recording is not heard."""
        if part is None or part.start * FRAMES_A_SECOND >= self.frames:
            return ""
        text = self._model.text(part.tokens)
        if text.strip():
            self.parts.append(part)
        return text

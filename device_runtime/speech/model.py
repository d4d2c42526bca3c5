"""A speech model: its graphs, its tokenizer, and the tokens around texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.errors import RequestError
from device_runtime.inference.genai_model import GenAISpeechModel
from device_runtime.inference.sampling import Scores, check_finite, log_probabilities
from device_runtime.speech.rules import SpeechTokens
from device_runtime.speech.transcription import TranscriptionRequest
from device_runtime.tokenizer.tokenizer import Tokenizer


class SpeechModel:
    """A speech model.

    Attributes:
        bands: mel bands of its spectrograms.
        context_length: maximum length of a window's text and what precedes it, tokens.
        special: its special tokens.
        tokenizer: its tokenizer.

    Args:
        folder: holds the graphs, the tokenizer, and the configuration of both.
        threads: number of ONNX Runtime threads.

    Raises:
        EngineError: the tokenizer does not load.
        Exception: the graphs do not load, or the configuration is damaged.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._graphs = GenAISpeechModel(folder, threads)
        self.context_length = self._graphs.context_length
        self.special = SpeechTokens.of(folder)
        self.tokenizer = Tokenizer(folder)
        config = json.loads((folder / "preprocessor_config.json").read_bytes())
        self.bands: int = config["feature_size"]

    def begin(self, features: npt.NDArray[np.float32], tokens: Sequence[int]) -> "WindowText":
        """Encode a window, and begin its text.

        Args:
            features: the window, float32 [1, bands, frames].
            tokens: beginning of what precedes the text.
        """
        return WindowText(self._graphs.generator(features, tokens))

    def check(self, request: TranscriptionRequest) -> None:
        """Refuse what the model cannot do.

        Raises:
            RequestError: it does not know the language, or cannot translate.
        """
        special, language = self.special, request.language
        if not special.languages and language not in ("", "en"):
            raise RequestError(
                f"the speech model knows English alone, not the language {language!r}",
                hint="Build the bundle with a multilingual speech model.",
            )
        if special.languages and language and language not in special.languages:
            raise RequestError(
                f"the speech model does not know the language {language!r}; it knows "
                + ", ".join(sorted(special.languages)),
                hint="Send a code of ISO 639, such as en, or none: the model then listens itself.",
            )
        if request.task not in (*special.tasks, "transcribe"):
            raise RequestError(
                "the speech model cannot translate",
                hint="Build the bundle with a multilingual speech model.",
            )

    def prompt(self, text: str) -> list[int]:
        """Encode the text before a recording: with its mark at most half of the context, the last.

        Raises:
            RequestError: it has special tokens.
        """
        text = text.strip()
        if not text:
            return []
        tokens = self.tokenizer.encode(f" {text}", special=False)
        if max(tokens) >= self.special.end:
            raise RequestError(
                "the prompt has a special token of the speech model", hint="Leave it out."
            )
        return [self.special.previous, *tokens[1 - self.context_length // 2 :]]

    def marks(self, language: str, task: str, *, timed: bool) -> list[int]:
        """Return the tokens between `start` and a text.

        Args:
            language: language of the speech; empty for any.
            task: what to do with it.
            timed: whether the text is written with times.
        """
        special, marks = self.special, []
        if special.languages:
            first = next(iter(special.languages))
            marks = [special.languages[language or first], special.tasks[task]]
        return marks if timed else [*marks, special.no_times]

    def language(self, logits: Scores) -> str:
        """Return the most likely language of a recording.

        Args:
            logits: scores of the token after `start`.
        """
        languages = self.special.languages
        return max(languages, key=lambda name: float(logits[languages[name]]))

    def silence(self, logits: Scores) -> float:
        """Return the probability that nobody speaks in a window.

        Args:
            logits: scores of the token after `start`.
        """
        return float(np.exp(log_probabilities(logits)[self.special.no_speech]))

    def text(self, tokens: Sequence[int]) -> str:
        """Decode the text among tokens."""
        return self.tokenizer.decode([token for token in tokens if token < self.special.end])


class WindowText:
    """The text of a window, as the model continues it."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def append(self, tokens: Sequence[int]) -> None:
        """Append tokens."""
        self._generator.append_tokens(np.array(tokens, np.int32))

    def logits(self) -> Scores:
        """Return the model's scores of the next token, float32 [vocabulary].

        Raises:
            FloatingPointError: they are not finite.
        """
        logits: Scores = self._generator.get_logits()[0, -1]
        check_finite(logits)
        return logits

"""The rules by which a text of Whisper is written: which tokens begin it, and which may follow.

They are those of transformers' `generate` for Whisper, and of OpenAI's own program.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runtime.inference.sampling import Scores

TIMES_A_SECOND = 50
"""Tokens of times in a second of the recording."""

_NEVER = -np.inf


@dataclass(frozen=True, kw_only=True)
class SpeechTokens:
    """The special tokens of a model.

    Times are not looked up in the tokenizer: that of an English model does not have them.

    Attributes:
        start: begins what precedes a text.
        end: ends a text; only tokens below it are text.
        no_times: says that no times follow; those come after it in the vocabulary.
        languages: tokens of the languages by ISO 639; empty for a model of English alone.
        tasks: tokens of the tasks by name; likewise.
        suppressed: tokens that are never written.
        suppressed_first: tokens with which no text begins.
        latest_first: number of the latest time with which a text begins; None for any.
    """

    start: int
    end: int
    no_times: int
    languages: dict[str, int]
    tasks: dict[str, int]
    suppressed: Sequence[int]
    suppressed_first: Sequence[int]
    latest_first: int | None

    @classmethod
    def of(cls, folder: Path) -> "SpeechTokens":
        """Read them from a model's generation_config.json."""
        config = json.loads((folder / "generation_config.json").read_bytes())
        languages = config.get("lang_to_id", {})
        return cls(
            start=config["decoder_start_token_id"],
            end=config["eos_token_id"],
            no_times=config["no_timestamps_token_id"],
            languages={name.strip("<|>"): token for name, token in languages.items()},
            tasks=config.get("task_to_id", {}),
            suppressed=config.get("suppress_tokens") or (),
            suppressed_first=config.get("begin_suppress_tokens") or (),
            latest_first=config.get("max_initial_timestamp_index"),
        )

    @property
    def first_time(self) -> int:
        """The token of the time 0."""
        return self.no_times + 1

    @property
    def no_speech(self) -> int:
        """The token whose probability at the start is that of silence; its name varies."""
        return self.no_times - 1

    @property
    def previous(self) -> int:
        """The token that begins the text before the recording."""
        return self.no_times - 2

    def scores(self, logits: Scores, text: Sequence[int], *, timed: bool) -> Scores:
        """Compute the scores of the next token; minus infinity rules one out.

        Args:
            logits: the model's output, float32 [vocabulary].
            text: the text so far.
            timed: whether it is written with times.

        Returns:
            Scores, float32 [vocabulary], in a new array.
        """
        scores = logits.astype(np.float32, copy=True)
        scores[list(self.suppressed)] = _NEVER
        if not text:
            scores[list(self.suppressed_first)] = _NEVER
        if timed:
            self._rule_times(scores, text)
        return scores

    def _rule_times(self, scores: Scores, text: Sequence[int]) -> None:
        """Have times come in pairs, and grow, and be written where they are likely together."""
        first = self.first_time
        scores[self.no_times] = _NEVER
        after_time = bool(text) and text[-1] >= first
        after_pair = after_time and (len(text) < 2 or text[-2] >= first)
        if after_pair:
            scores[first:] = _NEVER
        elif after_time:
            scores[: self.end] = _NEVER
        times = [token for token in text if token >= first]
        if times:
            # The end of a part may be the beginning of the next, but not its own beginning.
            scores[first : times[-1] + (not after_time or after_pair)] = _NEVER
        if not text:
            scores[:first] = _NEVER
            if self.latest_first is not None:
                scores[first + self.latest_first + 1 :] = _NEVER
        likely = scores[first:].max(initial=_NEVER)
        if likely > _NEVER:
            together = likely + np.log(np.exp(scores[first:] - likely).sum())
            if together > scores[:first].max():
                scores[:first] = _NEVER

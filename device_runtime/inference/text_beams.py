"""Beam search over sequences that are decoded together.

The rules are those of ONNX Runtime GenAI with `early_stopping`: of the 2 x width best
continuations, those among the first `width` that end an answer become answers, and the first
`width` others the next beams; the search is over with `width` answers. Answers are ranked by the
mean log probability of their tokens, where the prompt's count as tokens of probability 1.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runtime.inference.sampling import log_probabilities
from device_runtime.inference.text_graph import TextGraph

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Beam:
    """A sequence, its log probability, and the place of its KV cache."""

    tokens: tuple[int, ...]
    score: float
    place: int

    @property
    def mean(self) -> float:
        return self.score / len(self.tokens)


class TextBeams:
    """Implements what `beam_search` needs of a generator.

    Args:
        graph: the model.
        adapter: name of the adapter that takes part; empty for none.
        width: number of beams.
        length: maximum length of prompt and answer, tokens.
        end_tokens: ids of the tokens that end an answer.

    Raises:
        MemoryError: the system has too few addresses.
    """

    def __init__(
        self,
        graph: TextGraph,
        adapter: str,
        *,
        width: int,
        length: int,
        end_tokens: Collection[int],
    ) -> None:
        self._graph = graph
        self._adapter = adapter
        self._width = width
        self._length = length
        self._end_tokens = end_tokens
        self._rows = graph.new_rows(length, width)
        if self._rows.count < width:
            raise MemoryError(f"the system has too few addresses for {width} KV caches")
        self._beams: list[_Beam] = []
        self._answers: list[_Beam] = []
        self._logits: Scores = np.empty((0, 0, 0), np.float32)

    def append_tokens(self, tokens: npt.NDArray[np.int32]) -> None:
        """Prefill the prompt."""
        ids = tokens.astype(np.int64)[None]
        outputs = self._graph.run(self._rows, 0, ids, [0], self._adapter)
        self._logits = outputs["logits"][:, -1:].astype(np.float32)
        self._beams = [_Beam(tuple(tokens.tolist()), 0.0, 0)]

    def get_logits(self) -> Scores:
        """Return the scores of the next tokens, float32 [beams, 1, vocabulary]."""
        return self._logits

    def generate_next_token(self) -> None:
        """Choose the next token of each beam, and decode it unless the search is over."""
        beams = self._beams
        scores = np.stack(
            [
                log_probabilities(logits) + np.float32(beam.score)
                for beam, logits in zip(beams, self._logits[:, 0], strict=True)
            ]
        )
        self._beams = self._next(scores)
        if not self.is_done():
            tokens = np.array([[beam.tokens[-1]] for beam in self._beams], np.int64)
            lengths = [len(beams[0].tokens)] * len(tokens)
            outputs = self._graph.run(self._rows, 0, tokens, lengths, self._adapter)
            self._logits = outputs["logits"].astype(np.float32, copy=False)

    def is_done(self) -> bool:
        """Return whether the search is over."""
        full = len(self._beams[0].tokens) >= self._length
        return full or len(self._answers) >= self._width

    def get_sequence(self, index: int) -> list[int]:
        """Return all tokens of an answer, the best of which is number 0."""
        open_beams = [] if len(self._answers) >= self._width else self._beams
        ranked = sorted([*self._answers, *open_beams], key=lambda beam: -beam.mean)
        return list(ranked[index].tokens)

    def _next(self, scores: Scores) -> list[_Beam]:
        """Return the next beams, by the places of their KV caches.

        Args:
            scores: log probabilities of the sequences with each next token, [beams, vocabulary].
        """
        vocabulary = scores.shape[1]
        count = min(2 * self._width, scores.size)
        best = np.argpartition(-scores, count - 1, axis=None)[:count]
        ranked = best[np.argsort(-scores.ravel()[best], kind="stable")]
        continued: list[tuple[_Beam, int, float]] = []
        for rank, place in enumerate(ranked.tolist()):
            parent, token = self._beams[place // vocabulary], place % vocabulary
            score = float(scores.ravel()[place])
            if token not in self._end_tokens:
                continued.append((parent, token, score))
            elif rank < self._width:
                self._answers.append(_Beam(parent.tokens, score, parent.place))
            if len(continued) == self._width:
                break
        return self._placed(continued)

    def _placed(self, continued: list[tuple[_Beam, int, float]]) -> list[_Beam]:
        """Give each continuation a KV cache: the first of a beam its own, the others copies."""
        kept = {parent.place for parent, _, _ in continued}
        free = [place for place in range(self._width) if place not in kept]
        beams = []
        for parent, token, score in continued:
            place = parent.place
            if place in kept:
                kept.remove(place)
            else:
                place = free.pop()
                self._rows.copy(parent.place, place, len(parent.tokens))
            beams.append(_Beam((*parent.tokens, token), score, place))
        return sorted(beams, key=lambda beam: beam.place)

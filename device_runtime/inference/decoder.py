"""The tokens of an answer, one after the other."""

from device_runtime.inference.grammar_cursor import GrammarCursor
from device_runtime.inference.kv_cache import Slot
from device_runtime.inference.sampling import Sampler, Scores, check_finite


class Decoder:
    """Decodes one answer.

    Without a grammar the generator takes each token, and runs the model for it. With one, tokens
    are chosen here. Those that a grammar leaves no choice of need no scores: together with the
    token chosen before them they go through the model in one pass, when the next choice comes.

    Args:
        slot: the slot that holds prompt and answer.
        sampler: the scores of the answer.
        cursor: the beginning of the answer's grammar; None for free text.
        scored: look at the model's output before each token, for log probabilities.

    Attributes:
        logits: the model's output before the last token, float32 [vocabulary]; None where it was
            not looked at.
    """

    def __init__(
        self, slot: Slot, sampler: Sampler, cursor: GrammarCursor | None, *, scored: bool
    ) -> None:
        self.logits: Scores | None = None
        self._slot = slot
        self._sampler = sampler
        self._cursor = cursor
        self._scored = scored
        self._first = True
        self._forced: list[int] = []

    def join_step(self) -> bool:
        """Have the next token's run take tokens of other answers along.

        Returns:
            Whether it can; otherwise the next token takes no run, or one for it alone.
        """
        if self._cursor is not None:
            self._forced = self._forced or self._cursor.forced()
            if self._forced:
                return False
            self._slot.catch_up()
        joins: bool = self._slot.generator.join_step()
        return joins

    def next(self, wanted: int | None = None) -> int:
        """Decode the next token.

        Args:
            wanted: the token to take, unless a grammar forbids it; None for any.

        Raises:
            FloatingPointError: the model's output is NaN or infinite.
            EngineError: the grammar is too much for llguidance.
        """
        self.logits = None
        token = self._free(wanted) if self._cursor is None else self._bound(self._cursor, wanted)
        self._sampler.add(token)
        self._first = False
        return token

    def _free(self, wanted: int | None) -> int:
        changed = self._sampler.changes_scores or wanted is not None
        # The first ones are always looked at: reading them costs a copy.
        if changed or self._scored or self._first:
            logits = self._read()
            if changed:
                scores = self._sampler.scores(logits, wanted)
                self._slot.generator.set_logits(scores[None, None])
        return self._slot.decode()

    def _bound(self, cursor: GrammarCursor, wanted: int | None) -> int:
        self._forced = self._forced or cursor.forced()
        if self._forced:
            if self._scored:
                self._read()
            token = self._forced.pop(0)
        else:
            token = cursor.choose(self._sampler.scores(self._read(), wanted))
        self._slot.add(token)
        return token

    def _read(self) -> Scores:
        """Read the model's output after all tokens so far."""
        self._slot.catch_up()
        logits: Scores = self._slot.generator.get_logits()[0, -1]
        check_finite(logits)
        self.logits = logits
        return logits

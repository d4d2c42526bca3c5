"""The place of an answer in its grammar: which tokens may come next, and which must.

The grammars are llguidance's. ONNX Runtime GenAI has that library as well, but runs the model once
for each token that a grammar leaves no choice of, or a second time for such tokens in a row.
"""

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from device_runtime.errors import EngineError
from device_runtime.inference.engine import Guidance
from device_runtime.inference.sampling import Scores
from device_runtime.logs import event
from device_runtime.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

log = logging.getLogger(__name__)


class Grammars:
    """The grammars for the tokens of a model.

    Args:
        tokenizer: the model's tokenizer.
        vocabulary: size of the model's vocabulary, tokens.
        end_tokens: ids of the tokens that end an answer, at least one.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, vocabulary: int, end_tokens: tuple[int, ...]
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_tokens = end_tokens

    def compile(self, guidance: Guidance) -> "GrammarCursor":
        """Compile a grammar; the cursor is at its beginning.

        Raises:
            EngineError: llguidance rejects it.
        """
        from llguidance import LLMatcher, LLParserLimits

        grammar = guidance.data
        if guidance.kind == "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(grammar)
        elif guidance.kind == "regex":
            grammar = LLMatcher.grammar_from_regex(grammar)
        # Errors would otherwise have the grammar in them, and warnings would go to stderr.
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        return GrammarCursor(matcher, self._end_tokens[0])

    @cached_property
    def _tokens(self) -> "LLTokenizer":
        # Most requests have no grammar: the library and its tokens take some 15 MB.
        from llguidance import LLTokenizer

        tokens: Any = _Tokens(self._tokenizer, self._vocabulary, self._end_tokens[0])
        library = LLTokenizer(tokens, eos_token=list(self._end_tokens))
        tokens.become(library)
        return library


class GrammarCursor:
    """The place of one answer in its grammar.

    Args:
        matcher: llguidance's place.
        end_token: the token to end an answer with that cannot go on.

    Raises:
        EngineError: llguidance rejected the grammar.
    """

    def __init__(self, matcher: Any, end_token: int) -> None:
        self._matcher = matcher
        self._end_token = end_token
        self._mask = b""
        self._check()

    def copy(self) -> "GrammarCursor":
        """Return another cursor at this place."""
        return GrammarCursor(self._matcher.deep_copy(), self._end_token)

    def forced(self) -> list[int]:
        """Go past the tokens that must come next; return them, with an end token if one must.

        Raises:
            EngineError: the grammar is too much for llguidance.
        """
        tokens: list[int] = []
        while not self._matcher.is_stopped():
            only = self._matcher.compute_ff_tokens() or self._only_one()
            if not only:
                return tokens
            self._take(only)
            tokens += only
        self._check()
        return [*tokens, self._end_token]

    def choose(self, scores: Scores) -> int:
        """Go past the best token that may come next, and return it.

        Args:
            scores: of each token, float32 [vocabulary].

        Raises:
            EngineError: the grammar is too much for llguidance.
        """
        allowed = np.unpackbits(
            np.frombuffer(self._allowed(), np.uint8), count=len(scores), bitorder="little"
        )
        token = int(np.where(allowed, scores, np.float32(-np.inf)).argmax())
        self._take([token])
        return token

    def _only_one(self) -> list[int]:
        """Return the token that may come next if it is the only one."""
        mask = int.from_bytes(self._allowed(), "little")
        return [mask.bit_length() - 1] if mask.bit_count() == 1 else []

    def _allowed(self) -> bytes:
        """Return a bit for each token, which is set if it may come next."""
        if not self._mask:
            self._mask = self._matcher.compute_bitmask()
            self._check()
        return self._mask

    def _take(self, tokens: list[int]) -> None:
        self._mask = b""
        self._matcher.consume_tokens(tokens)
        self._check()

    def _check(self) -> None:
        if not self._matcher.is_error():
            return
        # A schema that was accepted must compile: the client did nothing wrong. What comes after
        # "(at" may be a text of the schema, which is not for the log.
        reason = next(iter(self._matcher.get_error().splitlines()), "")
        event(log, logging.ERROR, "grammar_rejected", reason=reason.partition(" (at ")[0])
        raise EngineError(
            f"the engine rejected the response grammar: {reason}",
            hint="This is a fault of edgepack; please report it with the schema.",
        )


class _Tokens:
    """The tokens of a model, and how texts become tokens, as llguidance asks for them."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end_token: int) -> None:
        self.tokens = [tokenizer.bytes_of(token) for token in range(vocabulary)]
        self.special_token_ids = [token for token in tokenizer.special if token < vocabulary]
        self.eos_token_id = end_token
        self._tokenizer = tokenizer
        self._library: LLTokenizer | None = None

    def become(self, library: "LLTokenizer") -> None:
        """Take llguidance's tokenizer, which has a copy of the tokens now."""
        self._library = library
        self.tokens = []

    def __call__(self, text: str) -> list[int]:
        """Encode text that a grammar leaves no choice of."""
        tokens = self._tokenizer.encode_inside(text)
        if tokens is None:
            assert self._library is not None
            tokens = self._library.greedy_tokenize(text)
        return tokens

"""Prompts of requests into tokens, checked against the model's vocabulary and context."""

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device_runtime import memory
from device_runtime.errors import RequestError
from device_runtime.inference.engine import (
    GenerationRequest,
    NoMemoryNowError,
    Prompt,
    PromptTooLongError,
    TokenIds,
    images_of,
)
from device_runtime.inference.kv_cache import Tokens
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from device_runtime.inference.vision_prompt import VisionPrompts


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """A prompt as the engine takes it.

    Attributes:
        tokens: its token ids, int32 [tokens].
        images: what the engine's image processor made of its images, by name; empty without.
    """

    tokens: Tokens
    images: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """Encodes the prompts of a model.

    Attributes:
        tokenizer: the model's tokenizer.
        templates: its chat templates.
        vision: its prompts with images; None for a model that takes text alone.
        vocabulary: size of the vocabulary, tokens.
        context_length: maximum length of prompt and answer together, tokens.
    """

    tokenizer: Tokenizer
    templates: ChatTemplates
    vision: "VisionPrompts | None"
    vocabulary: int
    context_length: int

    def encode(self, request: GenerationRequest, prompt: Prompt) -> EncodedPrompt:
        """Encode a prompt of a request.

        Raises:
            RequestError: the chat template rejects the messages, or the prompt is empty or has a
                token that the model does not know.
            ImageError: an image cannot be used.
            PromptTooLongError: the prompt leaves no room for an answer.
            NoMemoryNowError: memory is too short for the images.
        """
        images: dict[str, Any] = {}
        if isinstance(prompt, TokenIds):
            ids = list(prompt.ids)
        elif isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, special=True)
        elif images_of(prompt):
            if self.vision is None:
                raise RequestError("this model takes text alone, no images")
            ids, images = self.vision.encode(prompt, partial(self._render, request))
        else:
            # A chat template writes the BOS token itself.
            text = self._render(request, msgspec.to_builtins(prompt))
            ids = self.tokenizer.encode(text, special=False)
        if not images and self.vision is not None:
            self.vision.check(ids)
        self._check_known(ids, prompt)
        self._check_length(request, len(ids), with_images=bool(images))
        # Such a prompt is prefilled at once, with logits of each token, in fp32.
        if images and memory.available() < 4 * len(ids) * self.vocabulary and not request.counts:
            raise NoMemoryNowError(
                "the device has too little free memory for this prompt with images",
                hint="Send fewer images, or stop other programs on the device.",
            )
        return EncodedPrompt(tokens=np.asarray(ids, np.int32), images=images)

    def _render(self, request: GenerationRequest, turns: list[dict[str, Any]]) -> str:
        tools = json.loads(request.tools) if request.tools else None
        return self.templates.render(turns, tools, request.arguments, continues=request.continues)

    def _check_known(self, ids: list[int], prompt: Prompt) -> None:
        if not ids:
            raise RequestError("the prompt must not be empty")
        if (last := max(ids)) < self.vocabulary:
            return
        if isinstance(prompt, TokenIds):
            raise RequestError(
                f"the prompt's token {last} is not in the model's vocabulary "
                f"(0 to {self.vocabulary - 1})"
            )
        text = self.tokenizer.bytes_of(last).decode(errors="replace")
        raise RequestError(
            f"the prompt has the token {text!r}, which the tokenizer knows and the model does not",
            hint="Leave it out.",
        )

    def _check_length(self, request: GenerationRequest, length: int, *, with_images: bool) -> None:
        least = min(1, request.max_tokens)
        if length + least <= self.context_length or request.counts:
            return
        # The words by which LangChain tells this error from others.
        hint = "The prompt is too long: shorten it."
        if with_images:
            hint = "The prompt is too long: send fewer images, or start a new conversation."
        raise PromptTooLongError(
            # In OpenAI's words: by them, clients such as LiteLLM recognize the error.
            f"This model's maximum context length is {self.context_length} tokens. However, "
            f"you requested {length + least} tokens ({length} in the prompt, at "
            f"least {least} in the completion)",
            hint=hint,
        )


def texts(tokens: Tokens) -> Tokens:
    """Return the tokens of texts: some families have negative ids for images."""
    return tokens[tokens >= 0]

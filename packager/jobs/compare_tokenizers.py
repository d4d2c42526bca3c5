"""Compare the device's tokenizer and chat templates with those of transformers. A job because
transformers may run the model's own code."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.quantization import TokenizerComparison
from device_runtime.errors import RequestError
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer
from packager.genai import odd_texts, tokenizer_files
from packager.jobs.job import Job, JobRefusedError, Work


class ComparedTokenizers(msgspec.Struct, frozen=True, kw_only=True):
    """Result of the comparison.

    Attributes:
        counts: number of texts and conversations, and of those that differ.
        example: a text that differs, or the beginning of such a conversation; empty without any.
        left_out: tokens that the model does not know.
    """

    counts: TokenizerComparison
    example: str
    left_out: tuple[str, ...]


class CompareTokenizers(Job[ComparedTokenizers], frozen=True, kw_only=True):
    """Compare the tokenizers of a folder on the fixed corpus.

    Attributes:
        folder: Hugging Face folder.
        trust_remote_code: run Python code that comes with the model.
    """

    folder: Path
    trust_remote_code: bool

    def run(self, work: Work) -> ComparedTokenizers:
        """Compare the tokenizers.

        Raises:
            JobRefusedError: the device cannot use this tokenizer.
        """
        from transformers import AutoConfig, AutoTokenizer

        trust = self.trust_remote_code
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=trust)
        rows = config.get_text_config().vocab_size
        theirs = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=trust)
        with tempfile.TemporaryDirectory(prefix="tokenizer-") as scratch:
            saved = Path(scratch)
            theirs.save_pretrained(saved)
            if not (saved / "tokenizer.json").is_file():
                raise JobRefusedError(
                    f"the tokenizer of {self.folder.name} exists only as Python code",
                    hint="Use a model with a tokenizer.json, or convert its tokenizer to one.",
                )
            ours, templates = Tokenizer(saved), ChatTemplates.of(saved)
            if needed := tokenizer_files.needed_unknown(ours, saved, rows):
                raise JobRefusedError(
                    f"{self.folder.name} needs the tokens {', '.join(needed)}, and its embedding "
                    f"has no rows for them (it has {rows})",
                    hint="Use the tokenizer that belongs to the model.",
                )
            left_out = tokenizer_files.leave_out(saved, rows)
            if left_out:
                ours = Tokenizer(saved)
        added = [token.content for token in theirs.added_tokens_decoder.values()]
        odd = [token for token in added if token not in left_out]
        texts = odd_texts.texts(odd)
        chats = odd_texts.conversations(odd) if theirs.chat_template else []
        other_texts = [text for text in texts if _differs(theirs, ours, text)]
        other_chats = [chat for chat in chats if _renders_otherwise(theirs, templates, chat)]
        examples = [*other_texts, *(chat["messages"][0]["content"] for chat in other_chats)]
        return ComparedTokenizers(
            counts=TokenizerComparison(
                texts=len(texts),
                texts_differing=len(other_texts),
                conversations=len(chats),
                conversations_differing=len(other_chats),
                tokens_left_out=len(left_out),
            ),
            example=examples[0] if examples else "",
            left_out=left_out,
        )


def _differs(theirs: Any, ours: Tokenizer, text: str) -> bool:
    tokens = theirs.encode(text, add_special_tokens=False)
    return bool(
        ours.encode(text, special=False) != tokens
        or ours.encode(text, special=True) != theirs.encode(text)
        or ours.decode(tokens) != theirs.decode(tokens, skip_special_tokens=True)
    )


def _renders_otherwise(theirs: Any, templates: ChatTemplates, chat: dict[str, Any]) -> bool:
    """Compare a rendered conversation; one that the template itself refuses must be refused."""
    try:
        expected = theirs.apply_chat_template(
            chat["messages"], tools=chat.get("tools"), add_generation_prompt=True, tokenize=False
        )
    except Exception:  # whatever the template raises
        expected = None
    try:
        return bool(templates.render(**chat) != expected)
    except RequestError:
        return expected is not None

"""Tokenizer files against the rows of the model's embedding.

A tokenizer may have more tokens than its model: what was added to it and never trained, or what
a conversion from another format adds by itself.
"""

import json
from pathlib import Path

from device_runtime.errors import RequestError
from device_runtime.tokenizer.files import added_tokens, named_tokens
from device_runtime.tokenizer.templates import ChatTemplates
from device_runtime.tokenizer.tokenizer import Tokenizer

_USER, _ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
_CHATS = (
    [_USER],
    [_USER, _ASSISTANT, _USER],
    [{"role": "system", "content": "Answer."}, _USER],
)


def leave_out(folder: Path, rows: int) -> tuple[str, ...]:
    """Leave out the added tokens that the model does not know; such text becomes other tokens.

    Args:
        folder: has the tokenizer.json to rewrite.
        rows: number of rows of the embedding.

    Returns:
        The tokens that were left out.
    """
    unknown = tuple(token.content for token in added_tokens(folder) if token.id >= rows)
    if unknown:
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        known = [token for token in tokenizer["added_tokens"] if token["id"] < rows]
        tokenizer["added_tokens"] = known
        path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return unknown


def needed_unknown(tokenizer: Tokenizer, folder: Path, rows: int) -> tuple[str, ...]:
    """List the tokens that the model does not know, and that each of its chats or texts needs.

    Args:
        tokenizer: the tokenizer of the folder.
        folder: the files of the model's publisher.
        rows: number of rows of the embedding.
    """
    templates, named = ChatTemplates.of(folder), named_tokens(folder)
    texts = [named[name] for name in ("bos_token", "eos_token") if name in named]
    for chat in _CHATS:
        try:
            texts.append(templates.render(chat))
        except RequestError:
            continue  # a model without a template, or one without a system turn
    tokens = {*tokenizer.encode("", special=True)}
    tokens.update(token for text in texts for token in tokenizer.encode(text, special=False))
    unknown = sorted(token for token in tokens if token >= rows)
    return tuple(tokenizer.bytes_of(token).decode(errors="replace") for token in unknown)

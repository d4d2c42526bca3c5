"""The tokenizer's files of a built folder: what the runtime reads otherwise than transformers.

ONNX Runtime GenAI has a tokenizer and a template engine of its own. Where they are known to differ,
the files are written so that they agree; then both are asked for the tokens of some conversations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from packager.genai import chat_template

_NEVER = {"pattern": {"String": "<!never!>"}}
_WHOLE = {"pattern": {"Regex": r"[\s\S]+"}}

_SYSTEM = {"role": "system", "content": "You are a helpful pirate: 'arr', 100%."}
_QUESTION = {
    "role": "user",
    "content": 'What is  the capital?\n\nSay "yes" & <b>no</b> — ça va? 你好,世界!',
}
_ANSWER = {"role": "assistant", "content": "Of course: {1, 2, 30}!\n\nПривет 🤖"}
_THOUGHTS = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nOf course."}
CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "a question": [_QUESTION],
    "a longer conversation": [_QUESTION, _ANSWER, _QUESTION],
    "an answer with thoughts": [_QUESTION, _THOUGHTS, _QUESTION],
    "a system message": [_SYSTEM, _QUESTION],
}


def adapt(folder: Path) -> None:
    """Rewrite the files of a built folder where the runtime is known to differ.

    Args:
        folder: ONNX GenAI folder; its tokenizer is as transformers saved it.
    """
    template = folder / "chat_template.jinja"
    if template.is_file():
        template.write_text(chat_template.readable(template.read_text()))
    path = folder / "tokenizer.json"
    if path.is_file():
        tokenizer = json.loads(path.read_text())
        splitter = _splitter(tokenizer, chat=template.is_file())
        if splitter is not None:
            split = {"type": "Split", **splitter, "behavior": "Isolated", "invert": False}
            tokenizer["pre_tokenizer"] = split
            path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def _splitter(tokenizer: dict[str, Any], *, chat: bool) -> dict[str, Any] | None:
    """What stands for the pre-tokenizer of a SentencePiece-like model; None leaves it.

    Without one, the runtime cuts texts between letters, digits and signs, where the model's own
    tokens may go across. With an expression that takes all, it cuts nowhere, and puts a space
    before each piece between special tokens. With a string it puts none: right for models that put
    one before the start of the text only, which in a chat is a special token.
    """
    if not tokenizer["model"].get("byte_fallback"):
        return None
    current = tokenizer.get("pre_tokenizer")
    if current is None:
        return _WHOLE if '"Prepend"' in json.dumps(tokenizer.get("normalizer")) else _NEVER
    if current["type"] == "Metaspace" and not current.get("split", True):
        scheme = current["prepend_scheme"]
        return _WHOLE if scheme == "always" or (scheme == "first" and not chat) else _NEVER
    return None


def differences(source: Path, folder: Path, *, trust_remote_code: bool) -> dict[str, str]:
    """Conversations of which the runtime makes other tokens than transformers, and why.

    Args:
        source: Hugging Face folder.
        folder: ONNX GenAI folder built of it.
        trust_remote_code: run Python code that comes with the model.

    Returns:
        Keys of `CONVERSATIONS`, each with what is wrong. What the template itself refuses, a system
        message perhaps, is not wrong.
    """
    import onnxruntime_genai as og
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    if not theirs.chat_template:
        return {}
    ours = og.Tokenizer(str(folder))
    found = {}
    for name, messages in CONVERSATIONS.items():
        try:
            wanted = theirs.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception:  # noqa: S112 - whatever the template raises
            continue
        try:
            text = ours.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        except RuntimeError as error:
            found[name] = f"its chat template cannot be read: {str(error).splitlines()[0]}"
            continue
        if ours.encode(text).tolist() != list(wanted):
            found[name] = "other tokens come of it than in transformers"
    return found

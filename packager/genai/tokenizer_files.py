"""Tokenizer files of a built folder, adapted where the runtime differs from transformers.

ONNX Runtime GenAI has its own tokenizer and template engine. Where they are known to differ, the
files are rewritten so that they agree; then both encode some conversations for comparison.
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
        folder: ONNX GenAI folder with the tokenizer as transformers saved it.
    """
    template = folder / "chat_template.jinja"
    if template.is_file():
        template.write_text(chat_template.rewrite(template.read_text()))
    path = folder / "tokenizer.json"
    if path.is_file():
        tokenizer = json.loads(path.read_text())
        splitter = _splitter(tokenizer, chat=template.is_file())
        if splitter is not None:
            split = {"type": "Split", **splitter, "behavior": "Isolated", "invert": False}
            tokenizer["pre_tokenizer"] = split
            path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def _splitter(tokenizer: dict[str, Any], *, chat: bool) -> dict[str, Any] | None:
    """Choose a replacement for the pre-tokenizer of a SentencePiece-like model; None keeps it.

    Without a pre-tokenizer, the runtime splits text between letters, digits and punctuation, which
    the model's own tokens may span. With an expression that matches everything, it does not split,
    and puts a space before each segment between special tokens. With a string it adds no space:
    right for models that add one only at the start of the text, which in a chat is a special token.
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
    """Compare the runtime's tokens of some conversations with those of transformers.

    Args:
        source: Hugging Face folder.
        folder: ONNX GenAI folder built from it.
        trust_remote_code: run Python code that comes with the model.

    Returns:
        Keys of the `CONVERSATIONS` that differ, each with the problem. A conversation that the
        template itself refuses, such as one with a system message, does not count.
    """
    import onnxruntime_genai as og
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    if not theirs.chat_template:
        return {}
    ours = og.Tokenizer(str(folder))
    problems = {}
    for name, messages in CONVERSATIONS.items():
        try:
            expected = theirs.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception:  # noqa: S112 - whatever the template raises
            continue
        try:
            text = ours.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        except RuntimeError as error:
            problems[name] = (
                f"the runtime cannot read the chat template: {str(error).splitlines()[0]}"
            )
            continue
        if ours.encode(text).tolist() != list(expected):
            problems[name] = "the runtime's tokens differ from those of transformers"
    return problems

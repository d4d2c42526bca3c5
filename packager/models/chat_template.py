"""A chat template that the user gives a model."""

from dataclasses import replace
from pathlib import Path

from device_runtime.errors import RequestError
from device_runtime.tokenizer.files import DEFAULT, NAMED_TOKENS
from device_runtime.tokenizer.templates import ChatTemplates
from packager import cache
from packager.errors import ModelSourceError
from packager.models.source import ModelSource, check_original

_QUESTION = "Is this in the prompt?"


def given(source: ModelSource, file: Path) -> ModelSource:
    """Return a model with the template from a file instead of its own.

    Raises:
        ModelSourceError: the file cannot be read, or does not render a question.
    """
    check_original(source)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelSourceError(
            f"the chat template {file} cannot be read: {error}",
            hint="Pass a text file in UTF-8 with a Jinja template.",
        ) from None
    try:
        # The model's own tokens are not known yet where its folder must be converted first.
        templates = ChatTemplates({DEFAULT: text}, dict.fromkeys(NAMED_TOKENS, ""))
        rendered = templates.render([{"role": "user", "content": _QUESTION}])
    except RequestError as error:
        raise ModelSourceError(
            f"the chat template {file} does not render a question: {error}",
            hint="Correct the template; transformers' documentation describes the variables.",
        ) from None
    if _QUESTION not in rendered:
        raise ModelSourceError(
            f"the chat template {file} leaves the question out of the prompt",
            hint="A template writes messages[...]['content'].",
        )
    inputs = {"model": source.digest, "chat_template": cache.bytes_digest(text.encode())}
    return replace(source, chat_template=text, digest=cache.key(inputs))

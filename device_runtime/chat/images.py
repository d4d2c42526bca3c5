"""Image files in the messages of the device's own commands."""

import mimetypes
from base64 import b64encode
from pathlib import Path
from typing import Any

from device_runtime.api.images import MAX_IMAGE_BYTES
from device_runtime.errors import RequestError


def image_part(file: Path) -> dict[str, Any]:
    """Read an image into a part of a message, in OpenAI's form.

    Raises:
        RequestError: the file cannot be read, or is too large.
    """
    hint = "Pass a file with a JPEG, PNG or WebP image."
    try:
        with file.expanduser().open("rb") as opened:
            data = opened.read(MAX_IMAGE_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        # Besides errors of the system: an unknown user's home, an invalid file name.
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot read the image {file}: {reason}", hint=hint) from None
    if len(data) > MAX_IMAGE_BYTES:
        raise RequestError(
            f"the image {file} exceeds {MAX_IMAGE_BYTES >> 20} MiB", hint="Make it smaller."
        )
    if not data:
        raise RequestError(f"the image {file} is empty", hint=hint)
    kind = mimetypes.guess_type(file.name, strict=False)[0] or "application/octet-stream"
    url = f"data:{kind};base64,{b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def content(text: str, images: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the content of a message: its images precede the text."""
    return [*images, {"type": "text", "text": text}] if images else text

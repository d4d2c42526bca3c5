"""Wrong images in requests: no model here sees, so one that is right is wrong, too."""

from typing import Any

NOT_IMAGES: tuple[Any, ...] = (
    *("data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,iVBOR", "data:", "data:,x"),
    *("http://127.0.0.1/", "file:///etc/passwd", "/etc/passwd", "A" * 300_000, "iVBORw0KGgo="),
    *("x", "", "\x00", 1, None, [], {}),
)
IN_CHAT = tuple(
    [{"role": role, "content": [{"type": "image_url", "image_url": url}]}]
    for url in (*NOT_IMAGES, *({"url": url, "detail": "low"} for url in NOT_IMAGES))
    for role in ("user", "assistant")
)
IN_INPUT = tuple(
    [{"role": "user", "content": [{"type": "input_image", name: url}]}]
    for url in NOT_IMAGES
    for name in ("image_url", "file_id")
)
IN_MESSAGES = tuple(
    [{"role": "user", "content": [{"type": "image", "source": source}]}]
    for url in NOT_IMAGES
    for source in (
        *(url, {"type": "base64", "media_type": "image/png", "data": url}),
        *({"type": "url", "url": url}, {"type": "file", "file_id": url}),
    )
)
IN_OLLAMA = tuple(
    [{"role": "user", "content": "Hi", "images": images}]
    for images in ("x", 1, *([image] for image in NOT_IMAGES))
)
IN_GENERATE = (*([image] for image in NOT_IMAGES), ["iVBORw0KGgo="] * 9, "a", 1)

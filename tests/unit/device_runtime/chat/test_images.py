"""Image files in the messages of the device's own commands."""

import os
from base64 import b64encode
from pathlib import Path

import pytest

from device_runtime.chat import images
from device_runtime.chat.images import content, image_part
from device_runtime.errors import RequestError

DATA = b"not looked at here"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "image/png"), ("b.JPG", "image/jpeg"), ("c.webp", "image/webp"),
     ("d", "application/octet-stream")],
)  # fmt: skip
def test_file_becomes_a_part_of_a_message(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / name
    file.write_bytes(DATA)
    url = f"data:{kind};base64,{b64encode(DATA).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    assert image_part(file) == part
    assert content("What?", [part]) == [part, {"type": "text", "text": "What?"}]
    assert content("What?", []) == "What?"


def test_home_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(DATA)
    assert image_part(Path("~/a.png")) == image_part(tmp_path / "a.png")


def test_what_cannot_be_sent_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 10)
    (tmp_path / "large").write_bytes(b"x" * 11)
    (tmp_path / "empty").touch()
    (tmp_path / "round").symlink_to("round")
    reasons = {
        "nothing": "No such file",
        ".": "Is a directory",
        "large": "exceeds",
        "empty": "is empty",
        "round": "symbolic links",
        "a\0b": "null",
    }
    for name, reason in reasons.items():
        with pytest.raises(RequestError, match=reason) as caught:
            image_part(Path(os.path.join(tmp_path, name)))  # noqa: PTH118 - keeps "."
        assert caught.value.hint
    with pytest.raises(RequestError, match="cannot read the image"):
        image_part(Path("~nobody-of-this-name/a.png"))

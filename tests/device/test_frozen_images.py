"""A model that sees in the frozen runtime: of this machine, and of an emulated arm64 board."""

import platform
import subprocess
from base64 import b64encode
from pathlib import Path

import httpx
import pytest
from PIL import Image

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import Release
from tests.device import emulated
from tests.device.emulated import on_device
from tests.support.commands import edgepack_quickly
from tests.support.serving import Serving

pytestmark = pytest.mark.slow

QUESTION = "What is this?"


@pytest.fixture(scope="module")
def release(seeing_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release for this machine, with its frozen runtime."""
    folder = tmp_path_factory.mktemp("seeing-host")
    with open_bundle(bundle(seeing_onnx, f"cpu-{platform.machine()}", folder)) as opened:
        return opened.unpack(folder / "release")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A JPEG, a PNG and a WebP file, each of another colour."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = {"red": "jpg", "blue": "png", "yellow": "webp"}
    for colour, end in paths.items():
        Image.new("RGB", (150, 100), colour).save(folder / f"{colour}.{end}")
    return [folder / f"{colour}.{end}" for colour, end in paths.items()]


def bundle(model: Path, profile: str, folder: Path) -> Path:
    """Build a bundle for a profile, with room for the image tokens of Phi-3.5-vision."""
    path = folder / "seeing.epk"
    own = folder / "seeing.toml"
    own.write_text(f'extends = "{profile}"\ncontext_length = 4096\n')
    built = edgepack_quickly("build", "--profile", own, "--model", model, "-o", path)
    assert built.status == 0, built.err
    return path


def command(picture: Path) -> list[str]:
    return ["generate", "--max-tokens", "6", "--image", str(picture), QUESTION]


def answers(release: Release, pictures: list[Path]) -> list[str]:
    program = release.folder / RUNTIME_ENTRY
    outputs = []
    for picture in pictures:
        call = [str(program), *command(picture), "--release", str(release.folder)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    return outputs


def test_formats_are_decoded_and_the_server_answers_alike(
    release: Release, pictures: list[Path]
) -> None:
    expected = answers(release, pictures)
    assert len(set(expected)) == len(pictures)
    with Serving(release.folder) as serving, httpx.Client(base_url=serving.url) as client:
        for picture, answer in zip(pictures, expected, strict=True):
            url = f"data:image/any;base64,{b64encode(picture.read_bytes()).decode()}"
            content = [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": QUESTION},
            ]
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 6}
            served = client.post("/v1/chat/completions", json=body).json()
            assert served["choices"][0]["message"]["content"] == answer.removesuffix("\n")
            assert served["usage"]["prompt_tokens"] > 1900


@pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static")
def test_board_gives_the_answers_of_this_machine(
    seeing_onnx: Path, release: Release, pictures: list[Path], tmp_path: Path
) -> None:
    root = emulated.device(bundle(seeing_onnx, "raspberry-pi", tmp_path), tmp_path / "root")
    for picture, answer in zip(pictures, answers(release, pictures), strict=True):
        (root / "tmp" / picture.name).write_bytes(picture.read_bytes())
        there = command(Path("/tmp", picture.name))
        done = on_device(root, "/usr/local/bin/edgepack-runtime", *there)
        assert (done.status, done.out) == (0, answer), done.err

"""The Raspberry Pi bundle on a real arm64 Debian, its programs run by qemu."""

from pathlib import Path
from typing import IO

import pytest

from device_runtime.inference.engine import GenerationChunk, GenerationRequest
from device_runtime.update.target import Target
from device_runtime.worker.messages import FOR_PARENT, Chunk, Generate, Loaded, frame, read
from tests.device import emulated
from tests.device.emulated import inference_process, on_device
from tests.support.commands import edgepack, refused
from tests.support.targets import verify_unit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static", "systemd-analyze"),
]


@pytest.fixture(scope="module")
def device(pi_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal arm64 Debian with the bundle flashed into it. It has no Python."""
    return emulated.device(pi_bundle, tmp_path_factory.mktemp("arm64") / "root")


def test_installed_program_is_arm64_and_verifies_its_release(device: Path) -> None:
    with Target(device).file("usr/local/bin/edgepack-runtime") as file:
        assert file.read(20)[18:20] == b"\xb7\x00"
    done = on_device(device, "edgepack-runtime", "verify")
    assert done.status == 0, done.err


def test_doctor_finds_nothing_in_the_way(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "doctor")
    assert done.status == 0, done.out + done.err
    assert "fail" not in done.out


def test_generates_the_same_tokens_on_a_pi_4_and_a_pi_5(device: Path) -> None:
    """A Cortex-A72 has no dotprod and no fp16 arithmetic, so other kernels compute there."""
    prompt = ("generate", "--raw", "The capital of France is", "--max-tokens", "3")
    answers = []
    for cpu in ("cortex-a72", "cortex-a76"):
        done = on_device(device, "edgepack-runtime", *prompt, cpu=cpu)
        assert done.status == 0, done.err
        answers.append(done.out)
    assert "Paris" in answers[0]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
def test_answers_together_are_those_of_each_alone(device: Path, cpu: str) -> None:
    """To the last bit of their log probabilities, with the kernels of each processor."""
    prompts = (
        "The capital of France is",
        "Once upon a time",
        "def main():\n    print(",
        "1 2 3 4 5",
        "The sea",
    )
    requests = [GenerationRequest(prompt=text, max_tokens=6, logprobs=1) for text in prompts]
    with inference_process(device, cpu) as pipes:
        shared = answers(*pipes, dict(enumerate(requests)))
    # Another process, whose prompt cache is empty.
    with inference_process(device, cpu) as pipes:
        separate = [
            answers(*pipes, {number: request})[number] for number, request in enumerate(requests)
        ]
    assert list(shared.values()) == separate
    assert {len(tokens) for tokens in separate} == {6}


def answers(
    to_process: IO[bytes], from_process: IO[bytes], requests: dict[int, GenerationRequest]
) -> dict[int, list[tuple[int, float | None]]]:
    """Send requests, all at once; return the tokens of each answer and their log probabilities."""
    for number, request in requests.items():
        to_process.write(frame(Generate(id=number, request=request)))
    to_process.flush()
    said: dict[int, list[tuple[int, float | None]]] = {number: [] for number in requests}
    ended = 0
    while ended < len(requests):
        message = read(from_process, FOR_PARENT)
        assert isinstance(message, Chunk | Loaded), message
        if isinstance(message, Chunk) and isinstance(message.chunk, GenerationChunk):
            scored = message.chunk.logprobs
            said[message.id] += [(token.token, token.logprob) for token in scored]
            ended += message.chunk.usage is not None
    return said


@pytest.mark.parametrize("command", ["generate Hi", "serve --listen 127.0.0.1:0"])
def test_processor_that_lacks_a_feature_gives_one_error(device: Path, command: str) -> None:
    done = on_device(device, "edgepack-runtime", *command.split(), features="fp crc32")
    refused(done, 11, "needs a processor with asimd; the device's lacks asimd")
    assert len([line for line in done.err.splitlines() if line.startswith("error:")]) == 1


def test_doctor_names_the_feature_that_the_processor_lacks(device: Path) -> None:
    done = on_device(device, "edgepack-runtime", "doctor", features="fp crc32")
    assert done.status == 9
    assert "lacks asimd" in done.out


def test_systemd_accepts_the_unit(device: Path) -> None:
    assert verify_unit(device) == (0, [])


def test_bundle_for_another_machine_is_refused(host_bundle: Path, device: Path) -> None:
    before = (device / "var/lib/edgepack/current").readlink()
    refused(edgepack("flash", host_bundle, device), 8, "x86_64", "aarch64")
    assert (device / "var/lib/edgepack/current").readlink() == before

"""Downloads from a hub that is busy, cuts connections and sends other bytes."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime.update.registry import transport
from packager import cache, machine
from packager.errors import ResourceError
from packager.models.source import resolve
from tests.support import hub
from tests.support.commands import environment
from tests.support.sources import refused

WEIGHTS = "model.safetensors"


@pytest.fixture
def fake_hub(
    own_cache: Path, tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[hub.FakeHub]:
    monkeypatch.setattr(transport, "MAX_PAUSE_S", 0.01)
    with hub.serving(tiny_hf) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def _part() -> Path:
    return cache.root() / "hub/tiny--llama" / hub.COMMIT / f"{WEIGHTS}.part"


def _ranges(fake_hub: hub.FakeHub) -> list[str | None]:
    return [asked for asked, _ in fake_hub.offered]


def test_a_cut_connection_is_resumed(fake_hub: hub.FakeHub, tiny_hf: Path) -> None:
    fake_hub.cuts = [10_000, 0, 5_000]
    source = resolve("tiny/llama")
    assert source.digest == resolve(str(tiny_hf)).digest
    assert _ranges(fake_hub) == [None, "bytes=10000-", "bytes=10000-", "bytes=15000-"]
    assert not list(source.path.glob("*.part"))


def test_an_earlier_download_is_resumed(fake_hub: hub.FakeHub, tiny_hf: Path) -> None:
    fake_hub.cuts = [10_000, *[0] * transport.RETRIES]
    assert "it resumes" in refused("tiny/llama")
    assert _part().stat().st_size == 10_000
    fake_hub.offered.clear()
    assert resolve("tiny/llama").digest == resolve(str(tiny_hf)).digest
    assert _ranges(fake_hub) == ["bytes=10000-"]


def test_a_hub_without_ranges_sends_the_whole_file_again(
    fake_hub: hub.FakeHub, tiny_hf: Path
) -> None:
    fake_hub.ranges = False
    fake_hub.cuts = [10_000]
    assert resolve("tiny/llama").digest == resolve(str(tiny_hf)).digest
    assert _ranges(fake_hub) == [None, "bytes=10000-"]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_other_bytes_are_fetched_again_and_then_refused(
    name: str, fake_hub: hub.FakeHub, tiny_hf: Path
) -> None:
    """Large files have a sha256, small ones the digest of their blob in git."""
    right = fake_hub.files[name]
    wrong = bytes([right[0] ^ 1]) + right[1:]
    fake_hub.changed[name] = wrong
    assert resolve("tiny/llama").digest == resolve(str(tiny_hf)).digest

    (cache.root() / "hub/tiny--llama" / hub.COMMIT / name).unlink()
    fake_hub.files[name] = wrong  # the cache has the listing of the right bytes
    message = refused(f"tiny/llama@{hub.COMMIT}")
    assert f"other bytes than it lists for {name}" in message
    assert not list(cache.root().rglob("*.part"))


def test_a_longer_answer_ends_at_the_listed_size(fake_hub: hub.FakeHub, tiny_hf: Path) -> None:
    fake_hub.changed[WEIGHTS] = fake_hub.files[WEIGHTS] + b"more"
    assert resolve("tiny/llama").digest == resolve(str(tiny_hf)).digest


def test_a_damaged_part_is_fetched_again(fake_hub: hub.FakeHub, tiny_hf: Path) -> None:
    fake_hub.cuts = [10_000, *[0] * transport.RETRIES]
    refused("tiny/llama")
    with _part().open("r+b") as file:
        file.write(b"damaged")
    assert resolve("tiny/llama").digest == resolve(str(tiny_hf)).digest


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again_when_it_says(
    status: int, fake_hub: hub.FakeHub, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_hub.busy = [(status, "0"), (status, "")]
    resolve("tiny/llama")
    assert f"responded with status {status}; next try in" in capfd.readouterr().err


def test_a_hub_that_wants_a_long_pause_is_left_alone(fake_hub: hub.FakeHub) -> None:
    fake_hub.busy = [(429, "3600")]
    message = refused("tiny/llama")
    assert "status 429" in message
    assert "later" in message
    assert len(fake_hub.requests) == 1


def test_a_hub_that_is_always_busy(fake_hub: hub.FakeHub) -> None:
    fake_hub.busy = [(503, "")] * 99
    assert "given up after 7 failures" in refused("tiny/llama")


@pytest.mark.parametrize(("status", "word"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (418, "418")])
def test_other_refusals(status: int, word: str, fake_hub: hub.FakeHub) -> None:
    fake_hub.busy = [(status, "")]
    message = refused("tiny/llama")
    assert f"status {status}" in message
    assert word in message


def test_a_server_that_is_not_a_hub(fake_hub: hub.FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{fake_hub.url}/tiny/llama/resolve/main/config.json?")
    message = refused("tiny/llama")
    assert "does not respond as the hub does" in message
    assert "HF_ENDPOINT" in message


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "hub.example", "ftp://hub.example"])
def test_an_address_where_nobody_listens(
    endpoint: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    message = refused("tiny/llama")
    assert "the hub cannot be reached" in message
    assert "HTTPS_PROXY" in message


def test_the_disk_is_looked_at_before_the_download(
    fake_hub: hub.FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "disk_free", lambda _: 1000)
    with pytest.raises(ResourceError, match="the download needs") as caught:
        resolve("tiny/llama")
    assert "EDGEPACK_CACHE" in caught.value.hint
    assert fake_hub.offered == []


def _resolving(cache_folder: Path, **extra: str) -> subprocess.Popen[str]:
    """Resolve the model in a process of its own."""
    code = "from packager.models.source import resolve; print(resolve('tiny/llama').digest)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment(cache_folder), **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _resolved(cache_folder: Path, **extra: str) -> tuple[int, str, str]:
    """Resolve the model in a process of its own; return its status and outputs."""
    with _resolving(cache_folder, **extra) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_an_interruption_leaves_what_can_be_resumed(fake_hub: hub.FakeHub, own_cache: Path) -> None:
    fake_hub.cuts = [10_000]
    with _resolving(own_cache) as process:
        deadline = time.monotonic() + 60
        while not (_part().is_file() and _part().stat().st_size == 10_000):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # in the pause after the cut
    assert _part().stat().st_size == 10_000
    fake_hub.offered.clear()
    resolve("tiny/llama")
    assert _ranges(fake_hub) == ["bytes=10000-"]


def test_offline_mode_takes_what_is_there(fake_hub: hub.FakeHub, own_cache: Path) -> None:
    status, _, err = _resolved(own_cache, HF_HUB_OFFLINE="1")
    assert status != 0
    assert "HF_HUB_OFFLINE is set" in err
    digest = resolve("tiny/llama").digest
    fake_hub.requests.clear()
    assert _resolved(own_cache, HF_HUB_OFFLINE="1")[1].strip() == digest
    assert fake_hub.requests == []


def test_a_proxy_is_used(fake_hub: hub.FakeHub, own_cache: Path) -> None:
    """The fake hub is its own proxy: a host of this name does not exist."""
    _, out, err = _resolved(
        own_cache,
        HF_ENDPOINT="http://hub.invalid",
        HTTP_PROXY=fake_hub.url,
        NO_PROXY="127.0.0.1",
    )
    assert out.strip() == resolve("tiny/llama").digest, err
    assert any(request.startswith("GET http://hub.invalid/api") for request in fake_hub.requests)


def test_the_token_may_come_from_a_file_and_is_never_shown(
    fake_hub: hub.FakeHub, own_cache: Path, tmp_path: Path
) -> None:
    fake_hub.gated = True
    (tmp_path / "token").write_text(f"{hub.TOKEN}\n")
    status, out, err = _resolved(own_cache, HF_TOKEN_PATH=str(tmp_path / "token"))
    assert status == 0, err
    assert hub.TOKEN not in out + err

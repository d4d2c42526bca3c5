"""The host side on macOS and Windows, as far as it can be shown on Linux."""

import json
from pathlib import Path

import pytest

from tests.support.bundles import draft
from tests.support.commands import refused
from tests.support.other_system import SYSTEMS, edgepack_on

every_system = pytest.mark.parametrize("system", SYSTEMS)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "b.epk")


@every_system
def test_modules_are_imported_and_lists_are_printed(system: str, own_cache: Path) -> None:
    outcomes = edgepack_on(
        system,
        *(["--help"], ["profiles"], ["models", "--profile", "raspberry-pi"], ["recipes"]),
        *(["kit", "list"], ["keys", "list"], ["fleet", "--help"]),
        cache=own_cache,
    )
    assert [outcome.status for outcome in outcomes] == [0] * 7, outcomes
    words = ("--version", "raspberry-pi", "smollm2-135m", "int4-gptq", "pip install", "", "update")
    for outcome, word in zip(outcomes, words, strict=True):
        assert word in outcome.out


@every_system
def test_bundle_is_inspected_signed_and_verified(
    system: str, bundle: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPACK_KEYS", str(tmp_path / "keys"))
    (tmp_path / "passphrase").write_text("correct horse")
    passphrase = ["--passphrase-file", tmp_path / "passphrase"]
    made, signed, verified, inspected, exported = edgepack_on(
        system,
        *(
            ["keys", "generate", "mine", *passphrase],
            ["sign", bundle, "--key", "mine", *passphrase],
        ),
        *(["verify", bundle, "--json"], ["inspect", bundle, "--json"]),
        ["keys", "export", "mine", "-o", tmp_path / "mine.pem"],
        cache=own_cache,
    )
    for outcome in (made, signed, verified, inspected, exported):
        assert outcome.status == 0, outcome.err
    assert list(json.loads(verified.out)["signatures"].values()) == ["mine"]
    assert json.loads(inspected.out)["manifest"]["id"]
    assert (tmp_path / "mine.pem").read_bytes() == (tmp_path / "keys/mine.pem").read_bytes()


@every_system
def test_what_needs_linux_says_what_to_do_instead(
    system: str, bundle: Path, own_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "card").mkdir()
    frozen, run, demo, mounted, image = edgepack_on(
        system,
        *(["kit", "build", "linux-aarch64-cpu"], ["run", bundle], ["demo"]),
        *(["flash", bundle, tmp_path / "card"], ["flash", bundle, bundle]),
        cache=own_cache,
    )
    refused(frozen, 6, "can only be frozen on Linux", "pip install edgepack-kit-linux-aarch64-cpu")
    refused(run, 1, "is a program for Linux")
    refused(demo, 3, "no profile for this machine")
    for outcome in (mounted, image):
        refused(outcome, 8, f"cannot be flashed on {system}", "edgepack", "on Linux")


def test_what_windows_lacks_says_what_to_do_instead(bundle: Path, own_cache: Path) -> None:
    pulled, evaluated, flashed = edgepack_on(
        "Windows",
        *(["pull", "oci://127.0.0.1:1/team/bundle:1"], ["eval", bundle]),
        ["flash", bundle, "ssh://127.0.0.1:1"],
        cache=own_cache,
    )
    refused(pulled, 15, "on Linux and macOS only")
    refused(evaluated, 1, "cannot be unpacked on Windows")
    refused(flashed, 8, "cannot be flashed on Windows", "edgepack push")

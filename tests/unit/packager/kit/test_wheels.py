"""The wheels of a kit: those of the lock files, by hash."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from device_runtime.bundle.kit_facts import WheelFacts
from packager import kit
from packager.errors import KitError
from packager.kit import freeze, lock
from tests.support.wheels import runtime


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of h11's name and version, with other content, where pip looks first."""
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    version = lock.versions()["h11"]
    info = f"h11-{version}.dist-info"
    path = tmp_path / f"h11-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("h11/__init__.py", "evil = True\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: h11\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_wheel_with_the_content_of_the_lock_is_taken(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirement = f"h11=={lock.versions()['h11']} --hash=sha256:{digest}"
    folder = freeze.wheels([requirement], "3.11", [], {})
    assert (freeze.site_packages(folder, "3.11") / "h11/__init__.py").is_file()


def test_wheels_of_the_users_own_join_the_locked_ones(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirement = f"h11=={lock.versions()['h11']} --hash=sha256:{digest}"
    own = runtime(wheel.parent / "own")
    facts = WheelFacts(name="onnxruntime-gpu", version="1.31.1", file=own.name, sha256="a" * 64)
    folder = freeze.wheels([requirement], "3.11", [], {facts: own})
    site = freeze.site_packages(folder, "3.11")
    assert (site / "h11/__init__.py").is_file()
    assert (site / "onnxruntime/capi/libonnxruntime_providers_cuda.so").is_file()
    assert freeze.wheels([requirement], "3.11", [], {}) != folder


def test_wheel_with_other_content_is_refused(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "requirements", lambda _: lock.requirements(["h11"]))
    with pytest.raises(KitError) as caught:
        kit.ensure("linux-aarch64-cpu")
    assert "DO NOT MATCH THE HASHES" in str(caught.value)
    assert "edgepack's lock" in caught.value.hint
    cached = (wheel.parent / "cache").glob("*/*")
    assert [path for path in cached if path.suffix != ".lock"] == []


def test_all_wheels_of_every_platform_are_locked() -> None:
    for platform in kit.PLATFORMS.values():
        lines = freeze.requirements(platform.engine)
        assert all("--hash=sha256:" in line for line in lines)
        names = {line.partition("==")[0] for line in lines}
        assert {"numpy", "pyinstaller", *platform.engine} <= names
        assert "torch" not in names

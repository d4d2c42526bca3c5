"""pyproject.toml lists what the two sides import, and a kit gets what the device side needs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import device_runtime
import packager
from packager.errors import KitError
from packager.kit import freeze, lock
from packager.kit.contents import normal
from scripts.lock import CLIENTS
from tests.support.dependencies import closure, imported, required
from tests.support.fakes import ROOT

ENGINE = {"onnxruntime", "onnxruntime-genai"}
"""A kit has its platform's own build of these, and of the first only the library."""

LOCKED = re.compile(r"[\w.-]+==[\w.]+( ; [\w'<>=!.() ]+)?( --hash=sha256:[0-9a-f]{64})+")
"""A package in a lock file, its lines and spaces joined."""

ALONE = {"tokenizers"}
"""Packages without what they require: only for fetching from a hub, which no device does."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def locked_lines(text: str) -> list[str]:
    lines = re.sub(r"[ \\\n]+--", " --", text).splitlines()
    return [line for line in lines if not line.startswith("#")]


def folder(package: Any) -> Path:
    return Path(package.__file__).parent


def test_the_extra_device_is_what_the_runtime_imports_and_all_that_this_needs(
    project: dict[str, Any],
) -> None:
    """A package that is imported and not frozen fails here, not on a device."""
    listed = required(project["optional-dependencies"]["device"])
    assert listed == closure(imported(folder(device_runtime)), leaves=ENGINE | ALONE) - ENGINE


def test_the_plain_package_depends_on_what_either_side_imports_and_on_nothing_else(
    project: dict[str, Any],
) -> None:
    listed = required(project["dependencies"])
    assert listed == imported(folder(packager)) | imported(folder(device_runtime))


def test_lock_files_have_all_that_a_checkout_installs(project: dict[str, Any]) -> None:
    needed = closure(required([*project["dependencies"], *project["optional-dependencies"]["dev"]]))
    assert needed <= lock.versions().keys()


def test_lock_files_are_those_of_pyproject() -> None:
    """If not: python -m scripts.lock."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = (
        *whole["project"]["optional-dependencies"].values(),
        whole["dependency-groups"]["kits"],
    )
    lines = [*whole["project"]["dependencies"], *(line for group in groups for line in group)]
    lines += whole["build-system"]["requires"]
    versions = lock.versions()
    broken = [
        line
        for line in map(Requirement, lines)
        if not line.specifier.contains(versions.get(normal(line.name), "missing"))
    ]
    assert broken == []


def test_lock_files_have_one_version_of_each_package_and_its_hashes_alone() -> None:
    """No host of an index, no path of a machine; all that pip must download is verified."""
    files = {path.name: path.read_text() for path in (ROOT / "locks").glob("*.txt")}
    cpu = files.pop("torch-cpu.txt")
    assert f"torch=={lock.versions()['torch']}+cpu \\\n" in cpu
    text = "".join(files.values())
    lines = locked_lines(text)
    assert [line for line in lines if not LOCKED.fullmatch(line)] == []
    names = [normal(line.partition("==")[0]) for line in lines]
    assert len(names) == len(set(names)) == len(lock.versions())


@pytest.mark.parametrize("group", CLIENTS)
def test_lock_files_of_clients_have_their_packages_and_hashes_alone(group: str) -> None:
    """If not: python -m scripts.lock."""
    lines = locked_lines((ROOT / "tests" / "clients" / "python" / f"{group}.txt").read_text())
    assert [line for line in lines if not LOCKED.fullmatch(line)] == []
    locked = {normal(line.partition("==")[0]): line.split()[0].partition("==")[2] for line in lines}
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = map(Requirement, whole["dependency-groups"][group])
    assert [
        str(line)
        for line in wanted
        if not line.specifier.contains(locked.get(normal(line.name), "missing"))
    ] == []


def test_a_kit_gets_the_packages_of_the_extra_device(project: dict[str, Any]) -> None:
    listed = required(project["optional-dependencies"]["device"])
    assert {normal(name) for name in freeze.device_packages()} == listed


def test_metadata_without_the_extra_device_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an editable install of an older version has it: a kit of nothing would be made."""
    info = tmp_path / "edgepack-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: edgepack\nVersion: 0.0.1\n"
        'Requires-Dist: click>=8\nRequires-Dist: tzdata; python_version >= "3"\n'
        "Provides-Extra: host\nRequires-Dist: rich; extra == 'host'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KitError) as caught:
        freeze.device_packages()
    assert "scripts/setup.sh" in caught.value.hint

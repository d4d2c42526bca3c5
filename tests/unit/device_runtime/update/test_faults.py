"""Faults of installations that were seen on devices, each as it was noticed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runtime.bundle.release import open_release
from device_runtime.errors import BundleError, InstallError
from device_runtime.update.install import Policy, install
from tests.support.bundles import draft
from tests.support.targets import ELF_X86_64, make_root

UNITS = "etc/systemd/system"
LATER = (
    *("RuntimeDirectory", "StateDirectory", "WatchdogSec", "ProtectKernelLogs", "ProtectHostname"),
    *("ProtectProc", "PrivateMounts", "RestrictRealtime", "SystemCall", "UMask"),
    *("Wants", "MemoryMax", "OOMPolicy", "StartLimit", "RestartSteps", "RestartMaxDelay"),
)
"""Settings that the units of the first version did not have."""
WANTED = f"{UNITS}/multi-user.target.wants/edgepack.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64)


def bundle(folder: Path, number: int = 1, **changes: object) -> Path:
    values = {"version": f"{number}.0.0", "sequence": number, **changes}
    return draft().replaced(**values).write(folder / f"{number}.epk")


def test_damaged_current_release_keeps_its_name_while_it_is_repaired(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(tmp_path)
    release = install(path, root)
    left = 0

    def flush(_: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", flush)
    for steps in range(1, 200):
        (release.folder / "model/tokenizer.json").chmod(0o600)
        left = steps
        try:
            install(path, root)
        except KeyboardInterrupt:
            assert open_release(root / "var/lib/edgepack/current").digest == release.digest
        else:
            break
    assert steps > 10
    release.verify()


def test_file_of_a_finder_among_the_releases_is_harmless(root: Path, tmp_path: Path) -> None:
    releases = root / "var/lib/edgepack/releases"
    releases.mkdir(parents=True)
    (releases / ".DS_Store").write_text("Finder")
    (releases / ".Trashes").mkdir()
    install(bundle(tmp_path), root).verify()
    assert (releases / ".DS_Store").read_text() == "Finder"


def test_disabled_unit_stays_disabled(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    (root / WANTED).unlink()
    install(bundle(tmp_path, 2), root)
    assert not (root / WANTED).is_symlink()


def test_masked_unit_stays_masked(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    unit = root / UNITS / "edgepack.service"
    unit.unlink()
    unit.symlink_to("/dev/null")
    install(bundle(tmp_path, 2), root)
    assert str(unit.readlink()) == "/dev/null"


def test_edited_unit_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    unit = root / UNITS / "edgepack.service"
    unit.write_text(unit.read_text() + "# mine\n")
    notes = install(bundle(tmp_path, 2), root).notes
    assert unit.read_text().endswith("# mine\n")
    assert notes == ("edgepack.service was edited and stays as it is: remove it to get ours",)


def test_unedited_unit_of_an_earlier_version_is_replaced(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    unit = root / UNITS / "edgepack.service"
    new = unit.read_text()
    lines = new.splitlines(keepends=True)[1:]
    earlier = "".join(line for line in lines if not line.startswith(LATER))
    unit.write_text(earlier.replace("Type=notify", "Type=exec"))
    assert install(bundle(tmp_path, 2), root).notes == ()
    assert unit.read_text() == new


def test_configuration_and_drop_ins_survive(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path), root)
    kept = [
        root / "etc/edgepack/runtime.toml",
        root / "etc/edgepack/runtime.env",
        root / "etc/edgepack/secrets/mine",
        root / UNITS / "edgepack.service.d/mine.conf",
    ]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    install(bundle(tmp_path, 2), root)
    assert {path.read_text() for path in kept} == {"mine"}


def test_releases_do_not_pile_up(root: Path, tmp_path: Path) -> None:
    for number in range(1, 8):
        last = install(bundle(tmp_path, number), root)
    releases = root / "var/lib/edgepack/releases"
    assert len(list(releases.iterdir())) == 3
    assert last.folder in releases.iterdir()


def test_another_products_bundle_is_refused_unless_forced(root: Path, tmp_path: Path) -> None:
    install(bundle(tmp_path, id="camera-assistant"), root)
    other = bundle(tmp_path, 2, id="door-bell")
    with pytest.raises(InstallError, match=r"door-bell.*camera-assistant") as caught:
        install(other, root)
    assert "--force" in caught.value.hint
    install(other, root, policy=Policy(force=True)).verify()


def test_bundle_that_names_no_hardware_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"length >= 1 - at `\$.compatible`"):
        install(bundle(tmp_path, compatible=()), root)


def test_nobody_else_can_write_into_a_release_whatever_the_umask(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon has a umask of 0, and root runs what is in a release."""
    path = bundle(tmp_path)
    exposed: set[str] = set()

    def look(folder: Path) -> None:
        for entry in folder.iterdir():
            mode = entry.lstat().st_mode
            if mode & 0o022 and not entry.is_symlink():
                exposed.add(entry.name)
            if entry.is_dir() and mode & 0o001:
                look(entry)

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            look(root / "var/lib/edgepack")
            look(root / UNITS)
            return call(*arguments, **options)

        return run

    for folder in ("var/lib/edgepack", UNITS):
        (root / folder).mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in ("fsync", "fchmod", "chmod"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    before = os.umask(0)
    try:
        install(path, root).verify()
    finally:
        os.umask(before)
    assert exposed == set()

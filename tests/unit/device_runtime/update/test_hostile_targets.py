"""A card may hold any links; nothing outside of it is read as part of it, changed or removed."""

import os
from pathlib import Path

import pytest

from device_runtime.errors import DeviceError, InstallError
from tests.support.bundles import draft
from tests.support.targets import ELF_X86_64, flash, make_root

STATE = "var/lib/edgepack"
UNITS = "etc/systemd/system"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of this machine with what a flash must not touch."""
    host = tmp_path / "host"
    (host / ".git/objects").mkdir(parents=True)
    (host / ".git/config").write_text("mine")
    (host / "file").write_text("mine")
    (host / ("." + "a" * 64)).mkdir()
    return host


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return make_root(tmp_path / "card", ELF_X86_64)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "b.epk")


def snapshot(folder: Path) -> dict[str, object]:
    """Everything in a folder: kinds, contents, times of change."""
    return {
        str(path): (
            path.lstat().st_mode,
            path.lstat().st_ctime_ns,
            path.read_bytes() if path.is_file() else sorted(path.iterdir()),
        )
        for path in (folder, *folder.rglob("*"))
    }


def plant(card: Path, link: str, target: str | Path) -> None:
    (card / link).parent.mkdir(parents=True, exist_ok=True)
    (card / link).symlink_to(target)


LINKS_TO_FOLDERS = (
    *(STATE, f"{STATE}/releases", f"{STATE}/current", "var", "var/lib"),
    *("usr/local", "usr/local/bin", "etc/systemd", UNITS, f"{UNITS}/multi-user.target.wants"),
)
LINKS_TO_FILES = (
    *("usr/local/bin/edgepack-runtime", "usr/local/bin/.edgepack-runtime.new"),
    *(f"{UNITS}/edgepack.service", f"{UNITS}/.edgepack.service.new", f"{STATE}/.current.new"),
    f"{UNITS}/multi-user.target.wants/edgepack.service",
)


@pytest.mark.parametrize("link", LINKS_TO_FOLDERS + LINKS_TO_FILES)
def test_absolute_link_does_not_lead_into_this_machine(
    card: Path, host: Path, bundle: Path, link: str
) -> None:
    plant(card, link, host if link in LINKS_TO_FOLDERS else host / "file")
    before = snapshot(host)
    release = flash(bundle, str(card))
    assert snapshot(host) == before
    assert release.folder.resolve().is_relative_to(card)
    release.verify()


@pytest.mark.parametrize("link", LINKS_TO_FOLDERS)
def test_relative_link_does_not_climb_out_of_the_card(
    card: Path, host: Path, bundle: Path, link: str
) -> None:
    plant(card, link, "../" * 20 + str(host)[1:])
    before = snapshot(host)
    assert flash(bundle, str(card)).folder.resolve().is_relative_to(card)
    assert snapshot(host) == before


@pytest.mark.parametrize(("link", "target"), [("var", "/"), ("var/lib", "../../..")])
def test_link_to_the_root_is_the_root_of_the_card(
    card: Path, bundle: Path, link: str, target: str
) -> None:
    plant(card, link, target)
    before = sorted(card.parent.iterdir())
    assert flash(bundle, str(card)).folder.resolve().is_relative_to(card)
    assert sorted(card.parent.iterdir()) == before


def test_lock_that_is_a_link_is_refused(card: Path, host: Path, bundle: Path) -> None:
    plant(card, f"{STATE}/.lock", host / "file")
    before = snapshot(host)
    with pytest.raises(InstallError, match=r"\.lock is not a plain file") as caught:
        flash(bundle, str(card))
    assert caught.value.hint
    assert snapshot(host) == before


def test_system_that_is_a_link_to_this_machine_is_none(
    card: Path, host: Path, bundle: Path
) -> None:
    make_root(host / "system", ELF_X86_64)
    (card / "usr").rename(card / "was")
    plant(card, "usr", host / "system/usr")
    with pytest.raises(InstallError, match="is not a root file system"):
        flash(bundle, str(card))


def test_pipe_in_the_place_of_a_file_is_not_waited_for(card: Path, bundle: Path) -> None:
    (card / "usr/bin/env").unlink()
    os.mkfifo(card / "usr/bin/env")
    (card / STATE).mkdir(parents=True)
    os.mkfifo(card / STATE / ".lock")
    with pytest.raises(DeviceError, match="of an unknown architecture"):
        flash(bundle, str(card))
    (card / "usr/bin/ls").write_bytes(ELF_X86_64)
    with pytest.raises(InstallError, match="is not a plain file"):
        flash(bundle, str(card))


def test_release_that_is_a_link_to_one_of_this_machine_is_replaced(
    card: Path, host: Path, bundle: Path
) -> None:
    release = flash(bundle, str(card))
    release.folder.rename(host / "release")
    plant(card, str(release.folder.relative_to(card)), host / "release")
    before = snapshot(host)
    flash(bundle, str(card))
    assert not release.folder.is_symlink()
    release.verify()
    assert snapshot(host) == before


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "sbom.cdx.json"])
def test_release_with_a_link_to_a_file_of_this_machine_is_replaced(
    card: Path, host: Path, bundle: Path, name: str
) -> None:
    folder = flash(bundle, str(card)).folder
    (folder / name).rename(host / name)
    (folder / name).symlink_to(host / name)
    flash(bundle, str(card)).verify()
    assert not (folder / name).is_symlink()
    assert (host / name).is_file()

"""A bundle goes on the hardware it names, and not over a newer release, unless that is allowed."""

import json
from pathlib import Path

import pytest

from device_runtime.errors import InstallError
from device_runtime.update.install import Policy, install
from packager import profile
from tests.support.bundles import draft
from tests.support.commands import edgepack, edgepack_runtime, refused
from tests.support.targets import ELF_X86_64, flash, make_root

PI_5 = ("raspberrypi,5-model-b", "brcm,bcm2712")
ORIN = ("nvidia,p3737-0000+p3701-0000", "nvidia,p3701-0000", "nvidia,tegra234")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64)


def running(root: Path, board: tuple[str, ...]) -> Path:
    """Give a system what the kernel of a running one has in /proc; no names: no device tree."""
    (root / "proc").mkdir()
    (root / "proc/version").write_text("Linux version 6.12.0\n")
    if board:
        (root / "sys/firmware/devicetree/base").mkdir(parents=True)
        (root / "proc/device-tree").symlink_to("/sys/firmware/devicetree/base")
        names = "".join(f"{name}\0" for name in board)
        (root / "sys/firmware/devicetree/base/compatible").write_text(names)
    return root


def bundle_for(folder: Path, *names: str) -> Path:
    return draft().replaced(compatible=names).write(folder / f"{len(names)}-{names[0]}.epk")


@pytest.mark.parametrize(
    ("board", "names"),
    [
        (PI_5, ("raspberrypi,4-model-b", "raspberrypi,5-model-b")),
        (PI_5, ("brcm,bcm2712",)),
        (PI_5, ("linux-x86_64",)),
        (ORIN, ("nvidia,tegra234",)),
        ((), ("linux-x86_64",)),
        ((), ("raspberrypi,5-model-b", "linux-x86_64")),
    ],
)
def test_bundle_that_names_the_device_is_installed(
    root: Path, tmp_path: Path, board: tuple[str, ...], names: tuple[str, ...]
) -> None:
    install(bundle_for(tmp_path, *names), running(root, board)).verify()


@pytest.mark.parametrize(
    ("board", "names", "says"),
    [
        (ORIN, PI_5, "is for raspberrypi,5-model-b, brcm,bcm2712; the device is nvidia,p3737-0000"),
        (PI_5, ("nvidia,tegra234",), "is for nvidia,tegra234; the device is raspberrypi,5-model-b"),
        ((), ("nvidia,tegra234",), "the device is linux-x86_64"),
        (PI_5, ("linux-aarch64",), "is for linux-aarch64; the device is raspberrypi,5-model-b"),
    ],
)
def test_bundle_for_other_hardware_is_refused_unless_that_is_allowed(
    root: Path, tmp_path: Path, board: tuple[str, ...], names: tuple[str, ...], says: str
) -> None:
    bundle = bundle_for(tmp_path, *names)
    running(root, board)
    with pytest.raises(InstallError, match=says.replace("+", "\\+")) as caught:
        install(bundle, root)
    assert "--force" in caught.value.hint
    assert not (root / "var").exists()
    install(bundle, root, policy=Policy(force=True)).verify()


def test_card_is_flashed_where_nothing_says_that_the_bundle_is_for_another_board(
    root: Path, tmp_path: Path
) -> None:
    flash(bundle_for(tmp_path, "nvidia,tegra234"), str(root)).verify()
    with pytest.raises(InstallError, match="is for linux-aarch64; the device is linux-x86_64"):
        flash(bundle_for(tmp_path, "linux-aarch64"), str(root))


@pytest.mark.parametrize(
    ("name", "board", "fits"),
    [
        ("raspberry-pi", PI_5, True),
        ("raspberry-pi", ("raspberrypi,400", "brcm,bcm2711"), True),
        ("raspberry-pi", ORIN, False),
        ("jetson-orin", ORIN, True),
        ("jetson-orin", PI_5, False),
        ("cpu-aarch64", PI_5, True),
        ("cpu-aarch64", ORIN, True),
        ("cpu-aarch64", (), True),
    ],
)
def test_shipped_profiles_name_their_boards(name: str, board: tuple[str, ...], fits: bool) -> None:
    from device_runtime.bundle import requirements

    manifest = draft().replaced(compatible=profile.load(name).compatible).manifest
    assert (requirements.hardware(board, "aarch64", manifest) is None) == fits


def version(folder: Path, number: int, **changes: object) -> Path:
    values = {"version": f"{number}.0.0", "sequence": number, **changes}
    return draft().replaced(**values).write(folder / f"{number}.epk")


def test_older_bundle_is_refused_unless_that_is_allowed(root: Path, tmp_path: Path) -> None:
    newer = install(version(tmp_path, 2), root)
    older = version(tmp_path, 1)
    current = root / "var/lib/edgepack/current"
    says = r"older than the installed .* 1\.0\.0 has sequence 1, 2\.0\.0 has 2"
    with pytest.raises(InstallError, match=says) as caught:
        flash(older, str(root))
    assert "--allow-downgrade" in caught.value.hint
    assert current.resolve() == newer.folder
    install(older, root, policy=Policy(downgrade=True))
    assert current.resolve() != newer.folder


def test_same_and_newer_sequences_are_installed(root: Path, tmp_path: Path) -> None:
    install(version(tmp_path, 2), root)
    install(version(tmp_path, 2, version="2.0.1"), root)
    install(version(tmp_path, 3), root)


def test_current_release_that_cannot_be_read_is_replaced(root: Path, tmp_path: Path) -> None:
    newer = install(version(tmp_path, 2), root)
    (newer.folder / "manifest.json").write_bytes(b"{")
    install(version(tmp_path, 1), root).verify()


def test_options_of_both_programs(root: Path, tmp_path: Path) -> None:
    other = bundle_for(tmp_path, "nvidia,tegra234")
    running(root, PI_5)
    refused(edgepack_runtime("install", other, "--root", root), 8, "is for nvidia,tegra234")
    refused(edgepack("flash", other, root), 8, "is for nvidia,tegra234")
    newer = version(tmp_path, 2)
    assert edgepack("flash", newer, root).status == 0
    older = draft().replaced(compatible=("nvidia,tegra234",), sequence=1).write(tmp_path / "o.epk")
    refused(edgepack("flash", older, root, "--force"), 8, "older than the installed")
    arguments = (older, "--root", root, "--force", "--allow-downgrade", "--json")
    done = edgepack_runtime("install", *arguments)
    assert done.status == 0, done.err
    digest = json.loads(done.out)["digest"]
    assert (root / "var/lib/edgepack/current").resolve().name == digest


def test_dry_run_of_flash_refuses_what_flash_refuses(root: Path, tmp_path: Path) -> None:
    bundle = version(tmp_path, 1)
    assert edgepack("flash", bundle, root, "--dry-run").status == 0
    (root / "etc/edgepack/update.toml").unlink()
    refused(edgepack("flash", bundle, root, "--dry-run"), 8, "not signed")
    assert not (root / "var/lib/edgepack").exists()


def test_option_that_is_for_other_targets(root: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("s3cret")
    outcome = edgepack("flash", version(tmp_path, 1), root, "--sudo-password-file", password)
    refused(outcome, 8, "--sudo-password-file is not for a mounted root file system")

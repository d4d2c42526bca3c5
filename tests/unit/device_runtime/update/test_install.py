"""Installing switches a whole, verified release in, or leaves the target as it was."""

import json
import os
import shutil
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import Blob, Record
from device_runtime.durable import aside_name
from device_runtime.errors import BundleError, DeviceError, InstallError, ResourceError
from device_runtime.update.install import install
from device_runtime.update.target import Target
from packager.errors import FlashError
from tests.support import bundles
from tests.support.bundles import draft
from tests.support.commands import edgepack_runtime
from tests.support.commands import refused as refused_command
from tests.support.disks import small_disk
from tests.support.targets import ELF_AARCH64, ELF_X86_64, flash, make_root, verify_unit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The least that is taken for a root file system."""
    return make_root(tmp_path / "root", ELF_X86_64)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "b.epk")


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_release_current_program_and_unit(root: Path, bundle: Path) -> None:
    release = install(bundle, root)
    state = root / "var/lib/edgepack"
    assert (state / "current").readlink() == Path(f"releases/{release.digest}")
    release.verify()
    program = root / "usr/local/bin/edgepack-runtime"
    assert str(program.readlink()) == "/var/lib/edgepack/current/runtime/edgepack-runtime"
    assert Target(root).read("usr/local/bin/edgepack-runtime", 1 << 20) == bundles.PROGRAM
    wanted = root / "etc/systemd/system/multi-user.target.wants/edgepack.service"
    assert str(wanted.readlink()) == "/etc/systemd/system/edgepack.service"
    assert (root / "etc/systemd/system/edgepack.service").stat().st_mode & 0o777 == 0o644


def test_services_user_may_read_it_whatever_the_umask(root: Path, bundle: Path) -> None:
    before = os.umask(0o077)
    try:
        release = install(bundle, root)
    finally:
        os.umask(before)
    folders = [path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()]
    new = [path for path in folders if "edgepack" in str(path.relative_to(root))]
    assert {path.stat().st_mode & 0o777 for path in new} == {0o755}
    assert release.program.stat().st_mode & 0o777 == 0o755
    assert (root / "etc/systemd/system/edgepack.service").stat().st_mode & 0o777 == 0o644


def test_second_installation_switches_and_keeps_the_first(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    first = install(bundle, root)
    second = install(draft().replaced(version="2.0.0").write(tmp_path / "b2.epk"), root)
    current = root / "var/lib/edgepack/current"
    assert current.resolve().name == second.digest
    assert first.folder.is_dir()
    assert (root / "var/lib/edgepack/previous").resolve().name == first.digest
    assert install(bundle, root).digest == first.digest
    assert current.resolve().name == first.digest
    assert second.folder.is_dir()


def test_same_release_damaged_on_disk_is_replaced(root: Path, bundle: Path) -> None:
    release = install(bundle, root)
    (release.folder / "model/tokenizer.json").write_bytes(b"")
    (release.folder / "manifest.json").write_bytes(b"{")
    install(bundle, root).verify()
    assert [p.name for p in release.folder.parent.iterdir()] == [release.digest]


def test_damaged_bundle_leaves_the_target_as_it_was(root: Path, bundle: Path) -> None:
    install(bundle, root)
    current = (root / "var/lib/edgepack/current").readlink()
    before = tree(root)
    filler = b"not in the first release"
    blob = Blob(sha256=bundles.digest(filler), size=len(filler))
    new = Record(path="new", component="model", mode=0o644, size=255, sha256=blob.sha256, blob=blob)
    changed = draft().with_records(new)
    changed.blobs[blob.sha256] = filler
    damaged = changed.write(bundle.with_name("bad.epk"))
    data = bytearray(damaged.read_bytes())
    data[data.index(filler)] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(BundleError):
        install(damaged, root)
    assert tree(root) == before
    assert (root / "var/lib/edgepack/current").readlink() == current


def test_leftover_of_a_power_cut_is_removed(root: Path, bundle: Path) -> None:
    releases = root / "var/lib/edgepack/releases"
    for name in (aside_name("a" * 64), ".somebody-elses"):
        (releases / name / "model").mkdir(parents=True)
    install(bundle, root)
    assert [path.name for path in releases.glob(".*")] == [".somebody-elses"]


def test_links_of_the_target_do_not_lead_into_this_machine(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    """`/var` of the target points at an absolute path, as on systems with a data partition."""
    (root / "data").mkdir()
    (root / "var").symlink_to(f"/{tmp_path.name}-outside/../data/./var")
    install(bundle, root)
    assert (root / "data/var/lib/edgepack/current").is_symlink()
    assert not Path(f"/{tmp_path.name}-outside").exists()


def test_circle_of_links(root: Path) -> None:
    (root / "a").symlink_to("/b")
    (root / "b").symlink_to("a")
    with pytest.raises(InstallError, match="symlink loop"):
        Target(root).folder("a/x")


def refused(kind: type[DeviceError], bundle: Path, root: Path, match: str) -> None:
    before = tree(root)
    with pytest.raises(kind, match=match) as caught:
        install(bundle, root)
    assert caught.value.hint
    assert tree(root) == before


def test_no_root_file_system(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    refused(InstallError, bundle, tmp_path / "plain", "is not a root file system")


def test_other_architecture(bundle: Path, tmp_path: Path) -> None:
    refused(InstallError, bundle, make_root(tmp_path / "arm", ELF_AARCH64), "is aarch64")


def test_older_c_library(root: Path, bundle: Path) -> None:
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/lib/libc.so.6").write_bytes(
        b"\0GNU C Library (Debian GLIBC 2.13-1) stable release version 2.13.\n"
    )
    refused(InstallError, bundle, root, "needs glibc 2.17")


def test_file_in_the_place_of_a_folder(root: Path, bundle: Path) -> None:
    (root / "var").write_text("")
    refused(ResourceError, bundle, root, "Not a directory")


def test_model_only_bundle(root: Path, tmp_path: Path) -> None:
    path = draft(machine=None).write(tmp_path / "m.epk")
    refused(InstallError, path, root, "only a model")


def test_too_little_space(root: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import device_runtime.update.preflight as module

    install(bundle, root)
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    refused(ResourceError, draft().replaced(version="2").write(bundle), root, "MiB free")


@pytest.mark.requires("root")
def test_disk_that_fills_up_on_the_way(bundle: Path, tmp_path: Path) -> None:
    """The check for space may be overtaken by somebody else's writing."""
    import device_runtime.update.preflight as module

    with small_disk(tmp_path / "small", "64k") as small:
        root = make_root(small / "root", ELF_X86_64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "SPARE_BYTES", 0)
            big = draft()
            filler = os.urandom(60 << 10)
            blob = Blob(sha256=bundles.digest(filler), size=len(filler))
            big.blobs[blob.sha256] = filler
            record = Record(
                path="model/filler.data",
                component="model",
                mode=0o644,
                size=len(filler),
                sha256=blob.sha256,
                blob=blob,
            )
            patch.setattr(Target, "free_bytes", lambda *_: 1 << 30)
            with pytest.raises(ResourceError, match="No space left"):
                install(big.with_records(record).write(tmp_path / "big.epk"), root)
        assert list((root / "var/lib/edgepack/releases").iterdir()) == []
        assert not (root / "var/lib/edgepack/current").exists()


def test_flash_refuses_this_machine_and_what_is_no_folder(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="root of this machine"):
        flash(bundle, "/")
    (tmp_path / "self").symlink_to("/")
    with pytest.raises(FlashError, match="root of this machine"):
        flash(bundle, str(tmp_path / "self"))
    with pytest.raises(FlashError, match="is not a mounted root"):
        flash(bundle, str(tmp_path / "missing"))


def test_flash_installs(bundle: Path, root: Path) -> None:
    release = flash(bundle, str(root))
    assert (root / "var/lib/edgepack/current").resolve().name == release.digest


@pytest.mark.requires("systemd-analyze")
def test_systemd_accepts_the_unit(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", ELF_X86_64)
    install(bundle, root)
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    assert verify_unit(root) == (0, [])


GPU_LIBRARY = "runtime/_internal/onnxruntime_ep_webgpu/libonnxruntime_providers_webgpu.so"


@pytest.mark.requires("systemd-analyze")
@pytest.mark.parametrize(
    ("known", "groups"),
    [
        ("root:x:0:\nvideo:x:44:\nrender:x:105:\n", "SupplementaryGroups=render video"),
        ("root:x:0:\nvideo:x:44:\n", "SupplementaryGroups=video"),
        ("root:x:0:\n", None),
        (None, None),
    ],
)
def test_service_with_a_gpu_may_open_it(
    tmp_path: Path, known: str | None, groups: str | None
) -> None:
    root = make_root(tmp_path / "root", ELF_X86_64)
    if known is not None:
        (root / "etc/group").write_text(known)
    gpu = bundles.draft().with_file(GPU_LIBRARY, b"plug-in").write(tmp_path / "gpu.epk")
    release = install(gpu, root)
    unit = root / "etc/systemd/system/edgepack.service"
    lines = unit.read_text().splitlines()
    assert [line for line in lines if line.startswith("Supp")] == ([groups] if groups else [])
    assert "Environment=XDG_CACHE_HOME=/var/cache/edgepack-runtime" in lines
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    assert verify_unit(root) == (0, [])
    assert install(gpu, root).digest == release.digest
    assert unit.read_text().splitlines() == lines
    # The next release has no use for it.
    install(bundles.draft().replaced(sequence=2).write(tmp_path / "cpu.epk"), root)
    assert "Supplementary" not in unit.read_text()


def test_the_devices_own_command(root: Path, bundle: Path, tmp_path: Path) -> None:
    done = edgepack_runtime("install", bundle, "--root", root, "--json")
    assert done.status == 0, done.err
    digest = json.loads(done.out)["digest"]
    assert (root / "var/lib/edgepack/current").resolve().name == digest
    (tmp_path / "plain").mkdir()
    refused_command(
        edgepack_runtime("install", bundle, "--root", tmp_path / "plain"),
        8,
        "is not a root file system",
    )
    refused_command(
        edgepack_runtime("install", tmp_path / "missing.epk", "--root", root), 7, "missing.epk"
    )

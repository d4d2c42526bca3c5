"""Kits without freezing one: what goes in, how it is found, moved and refused."""

import importlib.util
import io
import os
import platform
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from device_runtime.bundle.kit_facts import CudaFacts, KitFacts, WheelFacts
from packager import kit
from packager.errors import CommandError, KitError, ResourceError
from packager.kit import contents, cuda, freeze, rootfs
from packager.run import run
from tests.support import wheels
from tests.support.kits import NAME, put
from tests.support.wheels import fat_binary

LIBCUDART = ["libcudart.so.13"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def exported(own_cache: Path, tmp_path: Path) -> Path:
    """A kit as a file, and an empty cache."""
    folder = put(own_cache)
    file = tmp_path / "kit.tar"
    # The kit is in the cache for a builder of another architecture only.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "x86_64")
        kit.export(kit.ensure(NAME), file)
    shutil.rmtree(folder)
    return file


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(KitError) as caught:
        call()
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


def nothing_imported(own_cache: Path) -> bool:
    folder = own_cache / "kit-imported"
    return not folder.exists() or not [p for p in folder.iterdir() if p.suffix != ".lock"]


def test_min_glibc_is_the_newest_that_any_file_needs(tmp_path: Path) -> None:
    (tmp_path / "a.so").write_bytes(b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.34\0rest")
    (tmp_path / "b.so").write_bytes(b"\x7fELF\0GLIBC_2.9\0GLIBC_PRIVATE\0")
    (tmp_path / "text").write_bytes(b"\0GLIBC_2.99\0")
    # A system with an older C library has its own C++ library, which is taken instead.
    (tmp_path / "libstdc++.so.6").write_bytes(b"\x7fELF\0GLIBC_2.36\0")
    assert contents.min_glibc(tmp_path) == "2.34"


def test_needed_libraries_are_those_that_readelf_sees() -> None:
    package = importlib.util.find_spec("onnxruntime_genai")
    assert package is not None
    assert package.origin is not None
    for library in Path(package.origin).parent.glob("*.so"):
        shown = run(["readelf", "--dynamic", "--wide", library], what="Reading the library")
        expected = re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
        assert expected
        assert cuda.needed_libraries(library.read_bytes()) == expected


def test_gpus_are_those_of_all_fat_binaries() -> None:
    library = b"\x7fELF" + b"x" * 9 + fat_binary((2, 87), (2, 120)) + b"yy" + fat_binary((1, 90))
    assert sorted(set(cuda.gpus(library))) == ["12.0", "8.7", "9.0+"]
    assert list(cuda.gpus(b"\x7fELF" + b"x" * 100)) == []
    assert set(cuda.gpus(library[:100])) <= {"8.7", "12.0"}


def test_ptx_of_one_library_serves_the_code_of_another() -> None:
    def facts(*libraries: bytes) -> tuple[str, ...]:
        return cuda.facts(wheels.elf(LIBCUDART, code) for code in libraries).gpus

    assert facts(fat_binary((1, 80)), fat_binary((2, 87), (2, 75))) == ("8.7",)
    assert facts(fat_binary((2, 87), (2, 120)), fat_binary((2, 87)), b"") == ("8.7",)
    assert "for the same GPU" in refused(lambda: facts(fat_binary((2, 87)), fat_binary((2, 90))))
    assert "for the same GPU" in refused(lambda: facts(b""))


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        ([[], []], "CUDA (none)"),
        ([["libcudart.so.12"], ["libcudart.so.13"]], "CUDA 12 and 13"),
        ([["libcudart.so.11.0"]], "CUDA 11"),
    ],
)
def test_gpu_libraries_for_no_cuda_or_two(needed: list[list[str]], words: str) -> None:
    code = fat_binary((2, 87))
    assert words in refused(lambda: cuda.facts(wheels.elf(names, code) for names in needed))


def test_kit_that_needs_a_newer_c_library_than_the_board_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs = cuda.facts([wheels.elf(["libcudart.so.12"], fat_binary((2, 87)))])
    assert needs.jetpack == "6"
    kit_6 = KitFacts(name="k", machine="aarch64", digest="0" * 64, min_glibc="2.35", cuda=needs)
    cuda.warn_of_c_library(kit_6)
    assert capsys.readouterr().err == ""
    cuda.warn_of_c_library(msgspec.structs.replace(kit_6, min_glibc="2.36"))
    assert "JetPack 6 has 2.35" in capsys.readouterr().err


def test_device_whose_gpu_has_no_code_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    needs = CudaFacts(version="13", jetpack="7", libraries=(), gpus=("8.9", "9.0+"))
    plain = KitFacts(name="k", machine="aarch64", digest="0" * 64, min_glibc="2.36")
    kit.check_gpu(plain, ["nvidia,tegra234"])
    kit.check_gpu(msgspec.structs.replace(plain, cuda=needs), ["nvidia,tegra264", "other"])
    assert capsys.readouterr().err == ""
    kit.check_gpu(msgspec.structs.replace(plain, cuda=needs), ["nvidia,tegra234"])
    assert "8.7" in capsys.readouterr().err


def test_own_wheels_without_code_for_the_gpu_are_an_error() -> None:
    needs = CudaFacts(version="13", jetpack="7", libraries=(), gpus=("8.9", "9.0"))
    wheel = WheelFacts(name="onnxruntime-gpu", version="1", file="a.whl", sha256="0" * 64)
    facts = KitFacts(
        name=NAME, machine="aarch64", digest="0" * 64, min_glibc="2.36", cuda=needs, wheels=(wheel,)
    )
    message = refused(lambda: kit.check_gpu(facts, ["nvidia,tegra234"]))
    assert "compute capability 8.7" in message
    assert "CMAKE_CUDA_ARCHITECTURES=87" in message
    kit.check_gpu(facts, ["brcm,bcm2712"])


def test_kit_of_an_older_edgepack_has_no_cuda() -> None:
    plain = KitFacts(name="k", machine="aarch64", digest="0" * 64, min_glibc="2.36")
    old = msgspec.json.encode(plain).replace(b',"cuda":null', b"")
    assert msgspec.json.decode(old, type=KitFacts) == plain


def test_unknown_kit_suggests_the_nearest() -> None:
    message = refused(lambda: kit.ensure("linux-arch64-cpu"))
    assert "Did you mean linux-aarch64-cpu?" in message


def test_exported_kit_is_imported_and_used(exported: Path, own_cache: Path) -> None:
    imported = kit.import_(exported)
    assert imported.facts.name == NAME
    assert [each.facts for each in kit.installed()] == [imported.facts]
    found = kit.ensure(NAME)
    assert (found.folder, found.imported) == (imported.folder, True)
    assert (found.folder / "edgepack-runtime").stat().st_mode & 0o777 == 0o755
    assert (found.folder / "_internal/a.so").readlink() == Path("lib/a.so.1")
    assert kit.import_(exported).folder == imported.folder
    assert not list(own_cache.glob("kit-imported/.import*"))


def test_kit_of_another_recipe_with_the_same_files_is_imported_beside(
    exported: Path, tmp_path: Path
) -> None:
    imported = kit.import_(exported)
    recipe = imported.description.recipe.encode()
    other = tmp_path / "other.tar"
    other.write_bytes(exported.read_bytes().replace(recipe, b"0" * 64))
    assert kit.import_(other).facts.digest == imported.facts.digest
    assert kit.ensure(NAME).folder == imported.folder
    assert len(kit.installed()) == 2


def test_kits_in_the_cache_are_there(
    exported: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert not kit.is_there(NAME)
    folder = put(own_cache)
    assert kit.is_there(NAME)
    shutil.rmtree(folder)
    kit.import_(exported)
    assert kit.is_there(NAME)
    assert not kit.is_there("linux-aarch64-cuda")


@pytest.mark.parametrize("has", [set(), {"rule"}, {"qemu"}])
def test_emulation_needs_qemu_and_its_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: set[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(rootfs, "_BINFMT", tmp_path / "binfmt_misc")
    monkeypatch.setattr(rootfs, "_RULES", tmp_path / "binfmt.d")
    monkeypatch.setattr(rootfs, "_KEYRING", tmp_path / "keyring")
    (tmp_path / "keyring").touch()
    for program in ("mmdebstrap", *(["qemu-aarch64-static"] if "qemu" in has else [])):
        (tmp_path / program).touch(mode=0o755)
    (tmp_path / "binfmt.d").mkdir()
    if "rule" in has:
        (tmp_path / "binfmt.d" / "qemu-aarch64.conf").touch()
    message = refused(lambda: kit.check(NAME))
    assert "without qemu-user-static " in message
    (tmp_path / "qemu-aarch64-static").touch(mode=0o755)
    (tmp_path / "binfmt.d" / "qemu-aarch64.conf").touch()
    kit.check(NAME)


def test_two_builds_at_once_register_the_emulator_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cross = kit.PLATFORMS[NAME].cross
    assert cross is not None
    register = tmp_path / "binfmt_misc/register"
    mounted = []

    def written() -> str:
        return register.read_text() if register.exists() else ""

    def mount(argv: Sequence[object], what: str) -> None:
        mounted.append(argv)
        time.sleep(0.2)  # the time for the other to see that nothing is mounted
        register.parent.mkdir(exist_ok=True)
        register.touch()

    monkeypatch.setattr(rootfs, "run", mount)
    monkeypatch.setattr(rootfs, "_BINFMT", register.parent)
    monkeypatch.setattr(rootfs, "_RULES", tmp_path)
    monkeypatch.setattr(rootfs, "_registered", lambda _: "the rule" in written())
    (tmp_path / f"{cross.emulator}.conf").write_text("the rule\n")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(rootfs.register_emulator, [cross, cross]))
    assert len(mounted) == 1
    assert written() == "the rule"


def test_export_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    kit.import_(exported)
    kit.export(kit.ensure(NAME), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == exported.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.tar", "cache", "kit.tar"]


def test_export_into_a_missing_folder(exported: Path, tmp_path: Path) -> None:
    kit.import_(exported)
    assert "mkdir -p" in refused(lambda: kit.export(kit.ensure(NAME), tmp_path / "no" / "kit.tar"))


def test_export_onto_a_folder(exported: Path, tmp_path: Path) -> None:
    kit.import_(exported)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError) as caught:
        kit.export(kit.ensure(NAME), tmp_path / "folder")
    assert "folder: Is a directory" in str(caught.value)
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "folder", "kit.tar"]


def test_kit_of_another_version_is_left_aside(
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(own_cache, recipe="0" * 64, edgepack="0.0.9")
    (own_cache / "kit").rename(own_cache / "kit-imported")

    def offline(*_: object) -> Path:
        raise CommandError("Fetching: python3 failed with status 1", log="no network\n")

    monkeypatch.setattr(freeze, "wheels", offline)
    message = refused(lambda: kit.ensure(NAME))
    assert "could not be built" in message
    assert "no network" in message
    assert "edgepack 0.0.9" in capsys.readouterr().err
    assert [p for p in (own_cache / "kit").iterdir() if p.suffix != ".lock"] == []


def test_everything_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(freeze, "wheels", lambda *_: Path("/nonexistent"))
    monkeypatch.setattr(rootfs, "_KEYRING", Path("/nonexistent"))
    message = refused(lambda: kit.ensure(NAME))
    assert "apt-get install mmdebstrap debian-archive-keyring qemu-user-static" in message
    assert "root" in message
    assert "edgepack kit import" in message


def test_platform_that_cannot_be_crossed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    message = refused(lambda: kit.ensure("linux-x86_64-cpu"))
    assert "only be built on x86_64;" in message
    assert "kit import" in message


def test_damaged_description_in_the_cache(own_cache: Path) -> None:
    folder = put(own_cache)
    (folder / "kit.json").write_text("{")
    assert f"rm -r {folder}" in refused(kit.installed)


def test_import_of_a_cut_file(exported: Path, own_cache: Path, tmp_path: Path) -> None:
    data = exported.read_bytes().rstrip(b"\0")  # what follows is tar's own padding
    cut = tmp_path / "cut.tar"
    for part in range(20):
        cut.write_bytes(data[: len(data) * part // 20])
        refused(lambda: kit.import_(cut))
        assert nothing_imported(own_cache)


def test_import_of_a_flipped_byte(exported: Path, own_cache: Path) -> None:
    data = bytearray(exported.read_bytes())
    data[data.index(b"library")] ^= 1
    exported.write_bytes(data)
    assert "do not match its digest" in refused(lambda: kit.import_(exported))
    assert nothing_imported(own_cache)


def test_import_of_what_is_not_a_kit(tmp_path: Path, own_cache: Path) -> None:
    assert "does not exist" in refused(lambda: kit.import_(tmp_path / "missing.tar"))
    refused(lambda: kit.import_(tmp_path))
    (tmp_path / "text.tar").write_text("hello")
    assert "not a kit" in refused(lambda: kit.import_(tmp_path / "text.tar"))
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    assert "has no kit.json" in refused(lambda: kit.import_(tmp_path / "empty.tar"))
    assert nothing_imported(own_cache)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "extra",
    [
        [member("runtime/../../evil")],
        [member("/etc/evil")],
        [member("evil")],
        [member("runtime/edgepack-runtime")],
        [member("runtime/edgepack-runtime/below")],
        [member("runtime/x", tarfile.SYMTYPE, "/etc/passwd")],
        [member("runtime/x", tarfile.SYMTYPE, "../../../etc")],
        [member("runtime/x", tarfile.SYMTYPE, "nowhere")],
        [member("runtime/x", tarfile.SYMTYPE, "x")],
        [
            member("runtime/d/in", tarfile.SYMTYPE, ".."),
            member("runtime/x", tarfile.SYMTYPE, "d/in/../.."),
        ],
        [member("runtime/x", tarfile.SYMTYPE, "_internal"), member("runtime/x/file")],
        [member("runtime/x", tarfile.LNKTYPE, "runtime/edgepack-runtime")],
        [member("runtime/x", tarfile.CHRTYPE)],
        [member("runtime/x", tarfile.FIFOTYPE)],
        [member("runtime/x")],
    ],
)
def test_import_of_a_hostile_file(
    exported: Path, own_cache: Path, extra: list[tarfile.TarInfo]
) -> None:
    with tarfile.open(exported, "a") as tar:
        for info in extra:
            tar.addfile(info, io.BytesIO())
    before = sorted(own_cache.parent.iterdir())
    refused(lambda: kit.import_(exported))
    assert nothing_imported(own_cache)
    assert sorted(own_cache.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b'"linux-aarch64-cpu"', b'"linux-aarch64-xpu"', "no kit"),
        (b'"machine":"aarch64"', b'"machine":"x86_64x"', "does not match its platform"),
        (b'"packages":', b'"pakcages":', "kit.json"),
    ],
)
def test_import_with_a_wrong_description(exported: Path, old: bytes, new: bytes, word: str) -> None:
    data = exported.read_bytes()
    assert data.count(old) == 1
    exported.write_bytes(data.replace(old, new))
    assert word in refused(lambda: kit.import_(exported))

"""Freezing the runtime for this machine, and in the emulated Debian."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from device_runtime.bundle.model_facts import ModelFacts
from packager import cache, kit, sbom
from packager.errors import CommandError
from packager.kit import rootfs
from tests.support.frozen import frozen_modules
from tests.support.serving import eventually

HOST = f"linux-{os.uname().machine}-cpu"
ARM64 = kit.PLATFORMS["linux-aarch64-cpu"]

emulated = pytest.mark.requires("root", "mmdebstrap", "qemu-aarch64-static")


def mounts(*folders: Path) -> list[str]:
    """The mounts of these folders; other tests may mount things at the same time."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(f"{folder}" in line for folder in folders)]


@pytest.mark.slow
def test_kit_holds_the_runtime_and_nothing_of_the_host() -> None:
    made = kit.ensure(HOST)
    modules = frozen_modules(made.folder)
    top = {name.split(".")[0] for name in modules}
    assert {"device_runtime", "uvicorn", "numpy", "ssl"} <= top
    assert not top & {"torch", "transformers", "onnx", "pip", "setuptools", "packager", "rich"}
    modes = {path.stat().st_mode & 0o777 for path in made.folder.rglob("*") if path.is_file()}
    assert modes <= {0o644, 0o755}


PILLOWS = {
    "libXau", "libjpeg", "liblzma", "libopenjp2", "libsharpyuv", "libtiff", "libwebp",
    "libwebpdemux", "libwebpmux", "libxcb", "libzstd",
}  # fmt: skip


def check_components(made: kit.Kit) -> None:
    """All files of a kit are of a component, with digest, licence and its text."""
    files = {
        path.relative_to(made.folder).as_posix(): cache.file_digest(path)
        for path in made.folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    listed = [file for package in made.packages for file in package.files.items()]
    assert sorted(listed) == sorted(files.items())
    assert [package.name for package in made.packages if not package.license] == []
    untold = {
        package.name
        for package in made.packages
        if not any("/licenses/" in file for file in package.files)
    }
    assert untold <= PILLOWS  # whose own texts have those of their libraries
    licenses = {file: package.license for package in made.packages for file in package.files}
    for library, name in (
        ("libbz2.so.1.0", "bzip2-1.0.6"),
        ("libcrypto.so.3", "Apache-2.0"),
        ("libffi.so.8", "MIT"),
        ("libsqlite3.so.0", "blessing"),
        ("libssl.so.3", "Apache-2.0"),
        ("libstdc++.so.6", "GPL-3.0-or-later WITH GCC-exception-3.1"),
        ("libz.so.1", "Zlib"),
    ):
        assert licenses[f"_internal/{library}"] == name
    names = {package.name for package in made.packages}
    assert names >= {"edgepack", "python", "pyinstaller", "numpy", "onnxruntime-genai"}
    assert not names & {"libgfortran", "libquadmath", "libscipy_openblas64_"}
    (cryptography,) = (package for package in made.packages if package.name == "cryptography")
    assert "openssl" in {package.name for package in cryptography.contains}


@pytest.mark.slow
def test_all_that_is_frozen_is_in_the_sbom() -> None:
    made = kit.ensure(HOST)
    check_components(made)
    model = ModelFacts(
        name="m", source="s", source_sha256="0" * 64, architecture="a", parameters=1, license=""
    )
    rendered = sbom.render("m", "1", [model], made.packages).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(rendered) is None
    debian = [package for package in made.packages if package.purl.startswith("pkg:deb/")]
    assert debian or not Path("/var/lib/dpkg/status").is_file()
    for package in debian:
        query = ["dpkg-query", "--show", "--showformat=${Version}", package.name]
        assert subprocess.check_output(query, text=True) == package.version


@pytest.mark.slow
def test_clean_builds_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kit.ensure(HOST).description
    folder = tmp_path / "another-folder"
    folder.mkdir()
    monkeypatch.setenv("EDGEPACK_CACHE", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LC_ALL", "C")
    umask = os.umask(0o077)
    try:
        assert kit.ensure(HOST).description == before
    finally:
        os.umask(umask)
    assert sorted(path.name for path in folder.iterdir()) == ["kit", "wheels"]


@pytest.mark.slow
@emulated
def test_arm64_kit_is_made_here() -> None:
    made = kit.ensure(ARM64.name)
    assert made.facts.machine == "aarch64"
    program = (made.folder / "edgepack-runtime").read_bytes()
    assert program[18:20] == (183).to_bytes(2, "little")  # ELF's e_machine: EM_AARCH64
    assert "device_runtime.cli" in frozen_modules(made.folder)
    assert mounts(cache.root()) == []
    check_components(made)
    owners = {file: package for package in made.packages for file in package.files}
    purl = PackageURL.from_string(owners["_internal/libssl.so.3"].purl)
    assert (purl.type, purl.name, purl.version is not None) == ("deb", "libssl3", True)
    assert purl.qualifiers == {"arch": "arm64", "distro": "debian-12", "upstream": "openssl"}


RELEASE = """\
Origin: Debian
Suite: stable
Codename: bookworm
Architectures: arm64
Components: main
Date: Sat, 01 Jan 2022 00:00:00 UTC
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-arm64/Packages
"""

FOREIGN = f"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

{RELEASE}-----BEGIN PGP SIGNATURE-----

iHUEARYIAB0WIQTncbQVO9DxZ8RudHt1lTzn5zYRDQUCawkCrAAKCRB1lTzn5zYR
DcX8AP0Q3nFGZT5PAP+jr3G+JCmefj0buLKtlnUKn9OotNmCOQD9H6kd//xRa19v
wrXR5EjF2AIcHrRix3+0XfGFeDIOWgc=
=kfO/
-----END PGP SIGNATURE-----
"""
"""The same, signed with a key that is not Debian's."""


@emulated
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("Release", RELEASE, "is not signed"),
        ("InRelease", FOREIGN, "NO_PUBKEY 75953CE7E736110D"),
    ],
)
def test_debian_without_a_signature_of_debian_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, reason: str
) -> None:
    release = tmp_path / "debian/dists/bookworm" / name
    packages = release.parent / "main/binary-arm64/Packages"
    packages.parent.mkdir(parents=True)
    packages.touch()
    release.write_text(text)
    monkeypatch.setenv("EDGEPACK_CACHE", str(tmp_path / "cache"))
    source = f"deb copy:{tmp_path}/debian bookworm main"
    monkeypatch.setattr(rootfs, "debian_sources", lambda suite: [source])
    with pytest.raises(CommandError) as caught, rootfs.environment(ARM64, tmp_path, tmp_path):
        pass
    assert reason in caught.value.log
    assert "signature of Debian" in caught.value.hint
    assert [path.suffix for path in (tmp_path / "cache/rootfs").iterdir()] == [".lock"]


@pytest.mark.slow
@emulated
def test_failing_program_leaves_no_mount(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "wheels").mkdir()
    with rootfs.environment(ARM64, tmp_path / "work", tmp_path / "wheels") as there:
        machine = there.run(["uname", "-m"], {"PATH": "/usr/bin:/usr/sbin"}, "Asking").strip()
        assert machine == "aarch64"
        with pytest.raises(CommandError) as caught:
            script = "echo out > /work/file; echo said; touch /etc/evil; exit 3"
            there.run(["sh", "-c", script], {"PATH": "/usr/bin:/usr/sbin"}, "Failing")
        assert "said" in caught.value.log
        assert "Read-only file system" in caught.value.log
    assert (tmp_path / "work/file").read_text() == "out\n"
    assert mounts(cache.root(), tmp_path) == []
    shutil.rmtree(tmp_path / "work")


@pytest.mark.slow
@emulated
def test_interrupted_program_leaves_no_mount(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "wheels").mkdir()
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from packager.kit import PLATFORMS, rootfs\n"
        "work, wheels = map(Path, sys.argv[1:])\n"
        "with rootfs.environment(PLATFORMS['linux-aarch64-cpu'], work, wheels) as there:\n"
        "    there.run(['sh', '-c', 'touch /work/started; sleep 600'],\n"
        "              {'PATH': '/usr/bin:/usr/sbin'}, 'Sleeping')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "work", tmp_path / "wheels"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually((tmp_path / "work/started").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert mounts(cache.root(), tmp_path) == []
    shutil.rmtree(tmp_path / "work")

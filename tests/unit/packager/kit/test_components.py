"""The components of a made-up kit: whose each file is."""

from importlib import metadata
from pathlib import Path

import pytest

from packager.errors import KitError
from packager.kit import components
from packager.kit.components import Inputs
from packager.sbom import Package

SO = b"\x7fELF"
STATUS = """\
Package: zlib1g
Architecture: arm64
Source: zlib (1:1.2)
Version: 1:1.2.13.dfsg-1
Description: compression
 Version: 9

Package: gone
Architecture: arm64
"""


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    folder = tmp_path / "frozen"
    write(
        folder,
        {
            "edgepack-runtime": b"program",
            "_internal/device_runtime/page.html": "page",
            "_internal/fast/core.so": b"core",
            "_internal/fast.libs/libwebp-0352e75f.so.7.2.0": SO,
            "_internal/fast.libs/libmade.so": b"made",
            "_internal/base_library.zip": b"zip",
            "_internal/python3.11/lib-dynload/zlib.so": b"zlib",
            "_internal/libz.so.1": b"libz",
        },
    )
    (folder / "_internal/libwebp-0352e75f.so.7.2.0").symlink_to(
        "fast.libs/libwebp-0352e75f.so.7.2.0"
    )
    return folder


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    info = "fast-1.0.dist-info"
    sbom = (
        '{"components": [{"name": "openssl", "version": "4", "purl": "pkg:generic/openssl@4",'
        ' "licenses": [{"license": {"id": "Apache-2.0"}}]}]}'
    )
    listed = [
        "fast/core.so",
        "fast.libs/libmade.so",
        "fast.libs/libwebp-0352e75f.so.7.2.0",
        f"{info}/LICENSE",
    ]
    listed += [f"{info}/METADATA", f"{info}/sboms/sbom.json", f"{info}/RECORD"]
    write(
        tmp_path / "site",
        {
            f"{info}/METADATA": "Metadata-Version: 2.4\nName: Fast\nVersion: 1.0\n"
            "License-Expression: MIT\n",
            f"{info}/RECORD": "".join(f"{name},,\n" for name in listed),
            f"{info}/LICENSE": "fast's licence",
            f"{info}/sboms/sbom.json": sbom,
        },
    )
    write(
        tmp_path / "root",
        {
            "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
            "usr/lib/python3.11/LICENSE.txt": "Python's licence",
            "usr/share/doc/zlib1g/copyright": "As in /usr/share/common-licenses/GPL-3.",
            "usr/share/common-licenses/GPL-3": "GPL 3",
            "var/lib/dpkg/status": STATUS,
            "var/lib/dpkg/info/zlib1g:arm64.list": "/.\n/usr/lib/libz.so.1\n",
        },
    )
    origins = {
        "device_runtime/page.html": "/work/src/device_runtime/page.html",
        "fast/core.so": "/wheels/fast/core.so",
        "base_library.zip": "/work/build/base_library.zip",
        "python3.11/lib-dynload/zlib.so": "/usr/lib/python3.11/lib-dynload/zlib.so",
        "libz.so.1": "/lib/libz.so.1",
        "libwebp-0352e75f.so.7.2.0": "fast.libs/libwebp-0352e75f.so.7.2.0",
    }
    return Inputs(
        site=tmp_path / "site",
        wheels={"fast": "f" * 64},
        own={"fast": "fast-1.0-cp310-cp310-linux_aarch64.whl"},
        root=tmp_path / "root",
        python="3.11.2",
        stdlib=tmp_path / "root/usr/lib/python3.11",
        origins=origins,
        made="fast.libs/libmade.so",
    )


def collected(frozen: Path, inputs: Inputs) -> dict[str, Package]:
    return {package.name: package for package in components.collect(frozen, inputs)}


def test_each_file_is_of_one_component(frozen: Path, inputs: Inputs) -> None:
    packages = collected(frozen, inputs)
    owners = {file: name for name, package in packages.items() for file in package.files}
    licenses = "_internal/licenses"
    assert owners == {
        "edgepack-runtime": "edgepack",
        "_internal/device_runtime/page.html": "edgepack",
        "_internal/fast.libs/libmade.so": "edgepack",
        f"{licenses}/edgepack/licenses/LICENSE": "edgepack",
        "_internal/fast/core.so": "fast",
        f"{licenses}/fast/LICENSE": "fast",
        "_internal/fast.libs/libwebp-0352e75f.so.7.2.0": "libwebp",
        "_internal/base_library.zip": "python",
        "_internal/python3.11/lib-dynload/zlib.so": "python",
        f"{licenses}/python/LICENSE.txt": "python",
        "_internal/libz.so.1": "zlib1g",
        f"{licenses}/zlib1g/copyright": "zlib1g",
        f"{licenses}/zlib1g/GPL-3": "zlib1g",
    }
    assert (frozen / licenses / "zlib1g/GPL-3").read_text() == "GPL 3"


def test_components_say_what_they_are(frozen: Path, inputs: Inputs) -> None:
    packages = collected(frozen, inputs)
    fast, zlib, webp = (packages[name] for name in ("fast", "zlib1g", "libwebp"))
    assert (fast.version, fast.license, fast.purl) == ("1.0", "MIT", "pkg:pypi/fast@1.0")
    assert fast.sha256 == "f" * 64
    assert fast.origin == "fast-1.0-cp310-cp310-linux_aarch64.whl"
    (contained,) = fast.contains
    assert (contained.name, contained.version, contained.license) == ("openssl", "4", "Apache-2.0")
    assert (zlib.version, zlib.license) == ("1:1.2.13.dfsg-1", "Zlib")
    assert zlib.purl == (
        "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=arm64&distro=debian-12&upstream=zlib"
    )
    assert webp.version == "7.2.0"
    assert packages["python"].version == "3.11.2"


def test_parts_of_pillow_that_are_not_frozen_are_not_in_the_sbom() -> None:
    parts = {part.name: part for part in components._contained(metadata.distribution("pillow"))}
    assert {"PIL._imaging", "PIL._webp", "libwebp", "libtiff"} <= parts.keys()
    assert not [part for part in parts.values() if "GPL" in part.license]
    assert not parts.keys() & {"PIL._avif", "FreeType", "raqm"}


def test_library_has_its_files_name_where_there_is_no_dpkg(frozen: Path, inputs: Inputs) -> None:
    (inputs.root / "var/lib/dpkg/status").unlink()
    packages = collected(frozen, inputs)
    assert "zlib1g" not in packages
    libz = packages["libz"]
    assert (libz.version, libz.license, libz.purl) == ("1", "Zlib", "")
    assert libz.files.keys() == {"_internal/libz.so.1"}


def test_file_of_no_component_is_refused(frozen: Path, inputs: Inputs) -> None:
    (frozen / "_internal/stray.so").write_bytes(b"stray")
    with pytest.raises(KitError, match=r"_internal/stray\.so in the kit is of no package"):
        collected(frozen, inputs)

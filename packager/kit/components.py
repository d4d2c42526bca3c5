"""The components of a kit, for its SBOM: each file belongs to one."""

import ast
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import msgspec
from packageurl import PackageURL

import device_runtime
from packager import cache
from packager.errors import KitError
from packager.kit import debian
from packager.kit.contents import PROGRAM, frozen_distributions, normal
from packager.kit.debian import DebianPackage
from packager.sbom import Package

_GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"

_LIBRARIES = {
    "libXau": "MIT",
    "libbz2": "bzip2-1.0.6",
    "libcrypto": "Apache-2.0",
    "libexpat": "MIT",
    "libffi": "MIT",
    "libgcc_s": _GCC,
    "libjpeg": "IJG AND BSD-3-Clause AND Zlib",
    "liblzma": "public domain",
    "libopenjp2": "BSD-2-Clause",
    "libsharpyuv": "BSD-3-Clause",
    "libsqlite3": "blessing",
    "libssl": "Apache-2.0",
    "libstdc++": _GCC,
    "libtiff": "libtiff",
    "libuuid": "BSD-3-Clause",
    "libwebp": "BSD-3-Clause",
    "libwebpdemux": "BSD-3-Clause",
    "libwebpmux": "BSD-3-Clause",
    "libxcb": "MIT",
    "libz": "Zlib",
    "libzstd": "BSD-3-Clause",
}
"""Licences of the libraries that come with no metadata, by the names of their files."""

_LEFT_OUT = {
    "FreeType", "FriBiDi", "HarfBuzz", "Little CMS 2", "PIL._avif", "PIL._imagingcms",
    "PIL._imagingft", "PIL._imagingmath", "PIL._imagingmorph", "PIL._imagingtk", "fribidi-shim",
    "libavif", "libimagequant", "raqm",
}  # fmt: skip
"""Parts that Pillow's own SBOM names, and that are not frozen; libimagequant (GPL) is not in its
wheels either."""

_SPDX = {
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",  # PySocks
    "MIT License": "MIT",
    # An ambiguous classifier; of the frozen packages only prompt_toolkit has it.
    "BSD License": "BSD-3-Clause",
    "GPLv2-or-later with a special exception which allows to use PyInstaller to build and "
    "distribute non-free programs (including commercial ones)": "GPL-2.0-or-later WITH "
    "Bootloader-exception",
}

_LICENSE_FILE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|ThirdPartyNotices)", re.IGNORECASE)

# Python's own files, where no package of Debian has them.
_PYTHON = re.compile(r"python3|libpython3|base_library\.zip$")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The sources of the files of a kit.

    Attributes:
        site: the site-packages folder of the kit's packages.
        wheels: digests of their wheels (sha256, hex), by normalized names.
        own: the user's own wheels among them: file names with the index, by normalized names.
        root: the root file system that the kit was frozen in.
        python: version of its Python.
        stdlib: folder of its standard library, on this machine.
        origins: where PyInstaller took each file from, in the root, by the path in `_internal`.
        made: path of the file in `_internal` that edgepack made itself.
    """

    site: Path
    wheels: Mapping[str, str]
    own: Mapping[str, str]
    root: Path
    python: str
    stdlib: Path
    origins: Mapping[str, str]
    made: str


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A component without its files.

    Attributes:
        package: the component.
        paths: paths in `_internal` that are its files, if they are there.
        texts: its licence texts, by file names.
    """

    package: Package
    paths: set[str] = field(default_factory=set)
    texts: Mapping[str, Path] = field(default_factory=dict)


def origins(toc: Path) -> dict[str, str]:
    """Read where PyInstaller took each file from, by its path in the kit.

    PyInstaller writes the list as a Python literal: path, origin and kind of each file.
    """
    (entries,) = ast.literal_eval(toc.read_text())
    return {path: origin for path, origin, _ in entries}


def collect(frozen: Path, inputs: Inputs) -> tuple[Package, ...]:
    """Copy the licence texts into a kit, as most licences require, and list its components.

    Raises:
        KitError: a file of the kit is of no component.
    """
    internal = frozen / "_internal"
    parts = {part.package.name: part for part in _parts(internal, inputs)}
    for name, part in parts.items():
        # A wheel may have no text of its licence; this one is the same for all who use it.
        apache = parts["edgepack"].texts if part.package.license == "Apache-2.0" else {}
        for file, text in (part.texts or apache).items():
            target = internal / "licenses" / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(text, target)
    owners = {path: name for name, part in parts.items() for path in part.paths}
    files: dict[str, dict[str, str]] = {name: {} for name in parts}
    for path in sorted(frozen.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        relative = path.relative_to(frozen)
        owner = _owner(relative, owners)
        if owner is None:
            raise KitError(f"{relative} in the kit is of no package that edgepack knows")
        files[owner][relative.as_posix()] = cache.file_digest(path)
    return tuple(
        msgspec.structs.replace(parts[name].package, files=files[name]) for name in sorted(parts)
    )


def _owner(path: PurePath, owners: Mapping[str, str]) -> str | None:
    within = path.parts[1:] if path.parts[0] == "_internal" else path.parts
    return within[1] if within[0] == "licenses" else owners.get("/".join(within))


def _parts(internal: Path, inputs: Inputs) -> Iterator[_Part]:
    """Yield the components; of two with the same path, the later one has the file."""
    packaged = {path for path in inputs.origins if path.startswith("device_runtime/")}
    yield _edgepack({*packaged, PROGRAM, inputs.made})
    for distribution in frozen_distributions(inputs.site):
        part = _distribution(distribution, inputs)
        part.paths.discard(inputs.made)
        packaged |= part.paths
        yield part
    for path in packaged:
        if re.match(r"[^/]+\.libs/", path) and (internal / path).is_file():
            yield _library(internal, path)
    unpackaged = {
        path
        for path in inputs.origins.keys() - packaged - {inputs.made}
        if (internal / path).is_file() and not (internal / path).is_symlink()
    }
    owners = debian.owners(inputs.root, (inputs.origins[path] for path in unpackaged))
    debian_files: dict[DebianPackage, set[str]] = {}
    python: set[str] = set()
    for path in unpackaged:
        owner = owners.get(inputs.origins[path])
        if owner is not None:
            debian_files.setdefault(owner, set()).add(path)
        elif _PYTHON.match(path):
            python.add(path)
        else:
            yield _library(internal, path)
    for package, paths in debian_files.items():
        yield _debian(inputs.root, package, paths)
    yield _python(inputs, python)


def _edgepack(paths: set[str]) -> _Part:
    distribution = metadata.distribution("edgepack")
    name, version = "edgepack", device_runtime.__version__
    package = Package(
        name=name,
        version=version,
        license=_license(distribution.metadata),
        purl=PackageURL("pypi", name=name, version=version).to_string(),
    )
    return _Part(package=package, paths=paths, texts=_license_texts(distribution, ".dist-info/"))


def _distribution(distribution: metadata.Distribution, inputs: Inputs) -> _Part:
    name = normal(distribution.name)
    package = Package(
        name=name,
        version=distribution.version,
        license=_license(distribution.metadata),
        purl=PackageURL("pypi", name=name, version=distribution.version).to_string(),
        sha256=inputs.wheels[name],
        origin=inputs.own.get(name, ""),
        contains=_contained(distribution),
    )
    return _Part(
        package=package,
        paths={file.as_posix() for file in distribution.files or ()},
        texts=_license_texts(distribution),
    )


def _debian(root: Path, package: DebianPackage, paths: set[str]) -> _Part:
    return _Part(
        package=Package(
            name=package.name,
            version=package.version,
            license="PSF-2.0" if _PYTHON.match(min(paths)) else _library_license(min(paths)),
            purl=package.purl,
        ),
        paths=paths,
        texts=debian.license_texts(root, package),
    )


def _python(inputs: Inputs, paths: set[str]) -> _Part:
    """Return Python; the parts of it that Debian's packages own are theirs."""
    text = inputs.stdlib / "LICENSE.txt"
    return _Part(
        package=Package(
            name="python",
            version=inputs.python,
            license="PSF-2.0",
            purl=PackageURL("generic", name="python", version=inputs.python).to_string(),
        ),
        paths=paths,
        texts={text.name: text} if text.is_file() else {},
    )


def _library(internal: Path, path: str) -> _Part:
    """Return a library that has no metadata; its version is that of its interface."""
    version = path.partition(".so")[2].lstrip(".")
    package = Package(name=_library_name(path), version=version, license=_library_license(path))
    return _Part(package=package, paths={path})


def _library_name(path: str) -> str:
    return re.split(r"-|\.so", PurePath(path).name)[0]


def _library_license(path: str) -> str:
    return _LIBRARIES.get(_library_name(path), "")


def _license_texts(distribution: metadata.Distribution, within: str = "") -> dict[str, Path]:
    return {
        "/".join(file.parts[1:]): Path(str(file.locate()))
        for file in distribution.files or ()
        if within in file.as_posix() and _LICENSE_FILE.match(file.name)
    }


def _license(facts: metadata.PackageMetadata) -> str:
    """Read the licence from the metadata, else from its classifiers; empty if neither has one."""
    names = [facts[key] for key in ("License-Expression", "License") if key in facts]
    classifiers = facts.get_all("Classifier") or ()
    names += [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")]
    return _SPDX.get(names[0], names[0]) if names else ""


def _contained(distribution: metadata.Distribution) -> tuple[Package, ...]:
    """Read what a wheel says that it contains: its own SBOMs (PEP 770), in CycloneDX."""
    contained: dict[str, Package] = {}
    for file in distribution.files or ():
        if ".dist-info/sboms/" not in file.as_posix():
            continue
        for component in json.loads(file.read_text()).get("components", ()):
            if component["name"] in _LEFT_OUT:
                continue
            package = Package(
                name=component["name"],
                version=component.get("version", ""),
                license=_license_named(component.get("licenses", ())),
                purl=component.get("purl", ""),
            )
            contained[f"{package.name} {package.version}"] = package
    return tuple(contained[key] for key in sorted(contained))


def _license_named(choices: Sequence[dict[str, Any]]) -> str:
    """Return the first licence that a component of an SBOM has, as CycloneDX names it."""
    for choice in choices:
        entry = choice.get("license", {})
        return str(choice.get("expression") or entry.get("id") or entry.get("name") or "")
    return ""

"""Debian's packages in a root file system, as dpkg records them (dpkg(1), "FILES")."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packageurl import PackageURL


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """A package of Debian, or of a distribution that is made from it.

    Attributes:
        name: name of the package.
        version: exact version of the package.
        purl: its package URL, with the distribution, the architecture and the source package.
    """

    name: str
    version: str
    purl: str


def owners(root: Path, paths: Iterable[str]) -> dict[str, DebianPackage]:
    """Find the packages of files, by path; files of no package are left out.

    Args:
        root: the root file system; without dpkg's database there, no file is of a package.
        paths: absolute paths of the files inside the root.
    """
    if not (root / "var/lib/dpkg/status").is_file():
        return {}
    packages = _packages(root)
    # Where /usr is merged, a file has two paths, and its package lists one of them.
    wanted = {
        name: path for path in paths for name in (path, f"/usr{path}", path.removeprefix("/usr"))
    }
    return {
        wanted[line]: packages[listing.stem]
        for listing in sorted((root / "var/lib/dpkg/info").glob("*.list"))
        for line in listing.read_text(errors="replace").splitlines()
        if line in wanted
    }


def license_texts(root: Path, package: DebianPackage) -> dict[str, Path]:
    """List a package's copyright file and the common licences that it refers to, by file names."""
    copyright_file = root / "usr/share/doc" / package.name / "copyright"
    if not copyright_file.is_file():
        return {}
    text = copyright_file.read_text(errors="replace")
    names = set(re.findall(r"/usr/share/common-licenses/([\w.-]*\w)", text))
    common = {name: root / "usr/share/common-licenses" / name for name in names}
    texts = {"copyright": copyright_file, **common}
    return {name: path for name, path in texts.items() if path.is_file()}


def _packages(root: Path) -> dict[str, DebianPackage]:
    """Read the packages, by the names of their lists: with and without the architecture."""
    release = _fields((root / "usr/lib/os-release").read_text().replace('"', ""), "=")
    distribution = release["ID"]
    packages = {}
    for stanza in (root / "var/lib/dpkg/status").read_text(errors="replace").split("\n\n"):
        fields = _fields(stanza, ": ")
        if "Version" not in fields:
            continue
        name, version = fields["Package"], fields["Version"]
        qualifiers = {
            "arch": fields["Architecture"],
            "distro": f"{distribution}-{release.get('VERSION_ID', '')}",
            "upstream": fields.get("Source", name).split()[0],
        }
        purl = PackageURL("deb", distribution, name, version, qualifiers).to_string()
        package = DebianPackage(name=name, version=version, purl=purl)
        packages[name] = packages[f"{name}:{fields['Architecture']}"] = package
    return packages


def _fields(text: str, separator: str) -> dict[str, str]:
    lines = [line.partition(separator) for line in text.splitlines() if not line.startswith(" ")]
    return {key: value for key, _, value in lines}

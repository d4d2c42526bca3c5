"""A kit as a file: exported on a machine that can build it, imported on one that cannot.

The file is an uncompressed tar: `kit.json`, then everything below `runtime/`.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

import msgspec

from device_runtime.bundle.paths import safe_path
from packager import cache
from packager.aside import written_aside
from packager.errors import KitError
from packager.kit.collection import (
    DESCRIPTION,
    RUNTIME,
    Description,
    Kit,
    contents_digest,
    ensure,
    load,
    platform,
)

_MAX_DESCRIPTION_BYTES = 1 << 20
_DAMAGED = "Copy the file again from where `edgepack kit export` wrote it."


def export(name: str, file: Path) -> Kit:
    """Write the kit of that name to a file; the same kit gives the same bytes.

    Raises:
        KitError: the kit does not exist and cannot be built, or the file's folder is missing.
        ResourceError: the file cannot be written.
    """
    kit = ensure(name)
    base = kit.folder.parent
    paths = sorted(kit.folder.rglob("*"), key=lambda path: path.relative_to(base).parts)
    if not file.parent.is_dir():
        raise KitError(
            f"the folder {file.parent} does not exist", hint=f"Create it: mkdir -p {file.parent}"
        )
    with (
        written_aside(file, "Free some space there, or choose another location.") as aside,
        tarfile.open(fileobj=aside, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in (base / DESCRIPTION, *(p for p in paths if p.is_symlink() or p.is_file())):
            member = tar.gettarinfo(path, path.relative_to(base).as_posix())
            if member.islnk():  # hard links are a detail of this file system
                member.type, member.size = tarfile.REGTYPE, path.stat().st_size
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = 0
            if member.issym():
                tar.addfile(member)
            else:
                with path.open("rb") as content:
                    tar.addfile(member, content)
    return kit


def import_(file: Path) -> Kit:
    """Check a file that `export` wrote and put the kit into the cache.

    Checks each member's name and type before it is written, then the links, kit.json, the
    platform, and last the digest of the contents.

    Raises:
        KitError: the file is missing, damaged or not a kit; the cache is unchanged.
    """
    parent = cache.root() / "kit-imported"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=parent) as aside_name:
        aside = Path(aside_name)
        try:
            with tarfile.open(file, "r:") as tar:
                _unpack(tar, aside)
        except FileNotFoundError:
            raise KitError(f"{file} does not exist", hint="Check the path.") from None
        except (tarfile.TarError, EOFError, IsADirectoryError) as error:
            raise KitError(f"{file} is not a kit, or damaged: {error}", hint=_DAMAGED) from None
        description = _check(aside, file)

        def make(folder: Path) -> None:
            for name in (RUNTIME, DESCRIPTION):
                (aside / name).rename(folder / name)

        inputs = msgspec.to_builtins(description)
        return load(cache.stage(parent.name, inputs, make), imported=True)


def _unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the members; links come last, so that nothing is ever written through a link."""
    links: dict[str, str] = {}
    seen: set[str] = set()
    for member in tar:
        name = member.name
        if not safe_path(name) or not (name == DESCRIPTION or name.startswith(f"{RUNTIME}/")):
            raise KitError(f"unexpected file {name!r} in a kit", hint=_DAMAGED)
        if name in seen:
            raise KitError(f"{name!r} is a duplicate", hint=_DAMAGED)
        seen.add(name)
        if member.issym():
            links[name] = member.linkname
            continue
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise KitError(f"{name!r} is neither a file nor a symbolic link", hint=_DAMAGED)
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                shutil.copyfileobj(content, target)
        except (FileExistsError, NotADirectoryError):
            raise KitError(f"{name!r} is below a file", hint=_DAMAGED) from None
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    for name, target_name in links.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise KitError(f"{name!r} is a duplicate", hint=_DAMAGED)
        path.symlink_to(target_name)
    for name, target_name in links.items():
        inside = not target_name.startswith("/") and _leads_inside(folder / name, folder / RUNTIME)
        if not inside:
            raise KitError(f"{name!r} links out of the kit, or to nothing", hint=_DAMAGED)


def _leads_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a broken link, or a loop
        return False


def _check(folder: Path, file: Path) -> Description:
    path = folder / DESCRIPTION
    if not path.is_file() or path.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise KitError(f"{file} is not a kit: it has no {DESCRIPTION}", hint=_DAMAGED)
    try:
        description = msgspec.json.decode(path.read_bytes(), type=Description)
    except msgspec.DecodeError as error:
        raise KitError(f"{file} is not a kit: {DESCRIPTION}: {error}", hint=_DAMAGED) from None
    if platform(description.facts.name).machine != description.facts.machine:
        raise KitError(f"{file}: its architecture does not match its platform", hint=_DAMAGED)
    if contents_digest(folder / RUNTIME) != description.facts.digest:
        raise KitError(f"{file} is damaged: its contents do not match its digest", hint=_DAMAGED)
    return description

"""A kit as a file: written on a machine that can freeze it, imported on one that cannot.

The file is a tar: `kit.json`, then everything below `runtime/`. `edgepack kit export` leaves it
uncompressed; packages and registries have it compressed with zstd.
"""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import IO

import msgspec
import zstandard

from device_runtime.bundle.paths import link_stays_inside, safe_path
from packager import cache, console
from packager.aside import written_aside
from packager.errors import KitError
from packager.kit.collection import (
    DESCRIPTION,
    IMPORTED,
    RUNTIME,
    Description,
    Kit,
    contents_digest,
    load,
    platform,
)
from packager.tree import Tree

COMPRESSED = "kit.tar.zst"
"""Name of the compressed file in a package."""
LEVEL = 18
"""zstd's level. On a kit, 19 takes a fourth longer for 0.3 % fewer bytes. A window as long as the
kit saves 3 %."""
MAX_WINDOW = 1 << 27
"""Memory for decompression, bytes: what zstd's own program takes."""

_MAX_DESCRIPTION_BYTES = 1 << 20
_DAMAGED = "Copy the file again from where edgepack wrote it."
_ZIP, _ZSTD = b"PK\x03\x04", b"\x28\xb5\x2f\xfd"


def export(kit: Kit, file: Path) -> None:
    """Write a kit to a file; the same kit gives the same bytes.

    Raises:
        KitError: the file's folder is missing.
        ResourceError: the file cannot be written.
    """
    if not file.parent.is_dir():
        raise KitError(
            f"the folder {file.parent} does not exist", hint=f"Create it: mkdir -p {file.parent}"
        )
    with written_aside(file, "Free some space there, or choose another location.") as aside:
        _write(kit, aside, lambda _: None)


def compress(kit: Kit, target: IO[bytes]) -> None:
    """Write a kit, compressed; the same kit gives the same bytes, whatever the number of cores."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=MAX_WINDOW.bit_length() - 1, enable_ldm=True, threads=-1
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with (
        console.progress("Compressing", kit.size) as advance,
        compressor.stream_writer(target, closefd=False) as stream,
    ):
        _write(kit, stream, advance)


def _write(kit: Kit, target: IO[bytes], advance: Callable[[int], None]) -> None:
    tree = kit.tree
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, DESCRIPTION, tree.folder.parent / DESCRIPTION, 0o644)
        for name in tree.names():
            member = f"{RUNTIME}/{name}"
            if name in tree.links:
                link = tarfile.TarInfo(member)
                link.type, link.linkname, link.mode = tarfile.SYMTYPE, tree.links[name], 0o777
                tar.addfile(link)
            else:
                advance(_add(tar, member, tree.folder / name, tree.mode(name)))


def _add(tar: tarfile.TarFile, name: str, path: Path, mode: int) -> int:
    member = tarfile.TarInfo(name)
    member.size, member.mode = path.stat().st_size, mode
    with path.open("rb") as content:
        tar.addfile(member, content)
    return member.size


def import_(file: Path) -> Kit:
    """Check a kit's file or package and put the kit into the cache.

    Checks each member's name and type before it is written, then the links, kit.json, the
    platform, and last the digest of the contents.

    Args:
        file: what `export` or `compress` wrote, or a wheel.

    Raises:
        KitError: the file is missing, damaged or not a kit; the cache is unchanged.
    """
    parent = cache.root() / IMPORTED
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=parent) as aside_name:
        aside = Path(aside_name)
        try:
            with _opened(file) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                tree = _unpack(tar, aside)
        except FileNotFoundError:
            raise KitError(f"{file} does not exist", hint="Check the path.") from None
        except (
            *(tarfile.TarError, zipfile.BadZipFile, zstandard.ZstdError, EOFError),
            *(IsADirectoryError, PermissionError),
            RuntimeError,  # of zipfile, for encrypted members
        ) as error:
            raise KitError(f"{file} is not a kit, or damaged: {error}", hint=_DAMAGED) from None
        description = _check(tree, file)

        def make(folder: Path) -> None:
            for name in (RUNTIME, DESCRIPTION):
                (aside / name).rename(folder / name)

        return load(cache.stage(IMPORTED, key(description), make), imported=True)


def key(description: Description) -> dict[str, str]:
    """Return what names an imported kit in the cache."""
    return {"description": cache.bytes_digest(msgspec.json.encode(description))}


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open the tar in a file, whatever form it has."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with file.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start == _ZIP:
            with zipfile.ZipFile(raw) as wheel:
                names = [n for n in wheel.namelist() if n.rpartition("/")[2] == COMPRESSED]
                if len(names) != 1:
                    raise KitError(
                        f"{file} is not the package of a kit",
                        hint="Make one with: edgepack kit package NAME",
                    )
                with wheel.open(names[0]) as packed, unpacker.stream_reader(packed) as stream:
                    yield stream
        elif start == _ZSTD:
            with unpacker.stream_reader(raw) as stream:
                yield stream
        else:
            yield raw


def _unpack(tar: tarfile.TarFile, folder: Path) -> Tree:
    """Write the members; links come last, so that nothing is ever written through a link."""
    links: dict[str, str] = {}
    programs: set[str] = set()
    files: set[str] = set()
    for member in tar:
        name = member.name
        if not safe_path(name) or not (name == DESCRIPTION or name.startswith(f"{RUNTIME}/")):
            raise KitError(f"unexpected file {name!r} in a kit", hint=_DAMAGED)
        inside = name.removeprefix(f"{RUNTIME}/")
        if name in files or inside in links:
            raise KitError(f"{name!r} is a duplicate", hint=_DAMAGED)
        if member.issym():
            links[inside] = member.linkname
            continue
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise KitError(f"{name!r} is neither a file nor a symbolic link", hint=_DAMAGED)
        files.add(name)
        if member.mode & 0o100:
            programs.add(inside)
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                shutil.copyfileobj(content, target)
        except (FileExistsError, NotADirectoryError):
            raise KitError(f"{name!r} is below a file", hint=_DAMAGED) from None
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    for name, target_name in links.items():
        leads_to = f"{RUNTIME}/{normpath(join(dirname(name), target_name))}"
        if not link_stays_inside(name, target_name) or leads_to not in files:
            raise KitError(f"{name!r} links out of the kit, or to nothing", hint=_DAMAGED)
        path = folder / RUNTIME / name
        if path.exists() or not safe_path(name):
            raise KitError(f"{name!r} is a duplicate", hint=_DAMAGED)
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # not every file system has links; kit.json lists them, too
            path.symlink_to(target_name)
    return Tree(folder=folder / RUNTIME, links=links, programs=frozenset(programs))


def _check(tree: Tree, file: Path) -> Description:
    path = tree.folder.parent / DESCRIPTION
    if not path.is_file() or path.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise KitError(f"{file} is not a kit: it has no {DESCRIPTION}", hint=_DAMAGED)
    try:
        description = msgspec.json.decode(path.read_bytes(), type=Description)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KitError(f"{file} is not a kit: {DESCRIPTION}: {error}", hint=_DAMAGED) from None
    if platform(description.facts.name).machine != description.facts.machine:
        raise KitError(f"{file}: its architecture does not match its platform", hint=_DAMAGED)
    listed = (description.links, frozenset(description.programs))
    if listed != (tree.links, tree.programs) or contents_digest(tree) != description.facts.digest:
        raise KitError(f"{file} is damaged: its contents do not match its digest", hint=_DAMAGED)
    return description

"""The first installation on a device over SSH: the runtime's files, for the tools that it has.

A device without an edgepack runtime can neither decompress blobs nor tell which ones it has. So the
files of the runtime travel first, once, as a `.tar.gz`, and the program in it does the rest: it
takes the runtime's content from these files.
"""

import gzip
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from msgspec.structs import replace

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import Blob
from device_runtime.bundle.source import Source
from device_runtime.update.incoming import CONTENTS
from packager import console

PROGRAM = f"{CONTENTS}/{schema.RUNTIME_ENTRY}"
"""Path of the program below the folder of the transfer, once it is unpacked there."""


class _Runtime(Source):
    """The part of a bundle that is the runtime."""

    def __init__(self, whole: Source) -> None:
        records = tuple(r for r in whole.manifest.records if r.component == "runtime")
        part = schema.encode(replace(whole.manifest, records=records))
        super().__init__(manifest_bytes=part, signature=b"", sbom=whole.sbom)
        self._whole = whole

    def chunks(self, blob: Blob) -> Iterator[bytes]:
        return self._whole.chunks(blob)


@contextmanager
def archive(bundle: Source) -> Iterator[IO[bytes]]:
    """Make the archive: the same bundle gives the same bytes, so that its transfer can go on.

    Raises:
        BundleError: the bundle is damaged.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgepack-") as folder,
        tempfile.TemporaryFile() as file,
    ):
        with console.step("Preparing the runtime's files for the first installation"):
            release = Path(folder)
            _Runtime(bundle).unpack(release)
            with (
                gzip.GzipFile("", "wb", 6, file, mtime=0) as stream,
                tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar,
            ):
                tar.add(release / "runtime", "runtime", filter=_plain)
        file.seek(0)
        yield file


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out owner and time."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def unpack_script(folder: str, file: str) -> str:
    """Return the script that unpacks the archive, for any POSIX shell, without single quotes."""
    new, contents = f"{folder}/new", f"{folder}/{CONTENTS}"
    return (
        f"rm -rf {contents} {new} && mkdir {new} && tar -xzf {file} -C {new} && "
        f"mv {new} {contents} && rm -f {file}"
    )

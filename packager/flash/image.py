"""Flash into a disk image or a block device, without root for images and without mounting.

The installer runs in a folder with those files of the image that it reads (`scratch.py`); the
difference is written into a copy with debugfs (`transfer.py`), and the copy must pass e2fsck and a
comparison before anything else happens.

- An image is copied whole, and the copy takes its place at the end. A compressed one is unpacked to
  `NAME.img` beside it, or to `--output`.
- A card has many gigabytes that do not change. Of its root file system, only the metadata is copied
  (e2image), to a sparse file; new contents go into that file too. At the end, the blocks that
  differ are written to the card: first those that its file system does not use, then the rest. What
  they replace is kept until they have been read back, and written back on Ctrl-C or an error.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from device_runtime.bundle.manifest import Record
from device_runtime.bundle.reader import Bundle, open_bundle
from device_runtime.bundle.release import disk_error
from device_runtime.durable import open_folder
from device_runtime.errors import DeviceError
from device_runtime.update.install import install
from device_runtime.update.preflight import SPARE_BYTES
from packager import cache, console
from packager.errors import FlashError, ResourceError
from packager.flash import block_device, unpacked
from packager.flash.ext4 import FileSystem, check_programs, read_superblock
from packager.flash.partitions import Partition, Table, grow_last, read_table
from packager.flash.request import FlashRequest, FlashResult, result, whole
from packager.flash.scratch import Scratch, Tree
from packager.flash.transfer import Changes, changes, snapshot
from packager.units import gigabytes

DESCRIPTION = "a disk image or a block device"
ALIGNMENT = 1 << 20


def accepts(target: str) -> bool:
    """Return whether the target is a file or a block device."""
    path = Path(target)
    return path.is_file() or path.is_block_device()


def flash(request: FlashRequest) -> FlashResult:
    """Install a bundle into the root file system of an image or a block device.

    Raises:
        FlashError: the image is damaged or has no ext4 root file system, the device must not be
            written, or an option is for other targets.
        BundleError: the bundle is damaged; the target is unchanged.
        InstallError: the bundle does not fit the target.
        ResourceError: the target or this machine has too little free space.
    """
    request.refuse(
        DESCRIPTION, sudo_password_file=request.sudo_password, delta_from=request.delta_from
    )
    check_programs()
    with open_bundle(request.bundle) as bundle:
        if Path(request.target).is_block_device():
            return _flash_device(request, bundle)
        return _flash_image(request, bundle)


@dataclass(frozen=True, kw_only=True)
class _Root:
    """A root file system and the copy of it that is changed.

    Attributes:
        number: number of its partition.
        source: the file system to read from.
        copy: the copy; contents of files may be missing.
        hint: what to do next if there is too little space in it.
    """

    number: int
    source: FileSystem
    copy: FileSystem
    hint: str


def _flash_image(request: FlashRequest, bundle: Bundle) -> FlashResult:
    path = Path(request.target).resolve()
    with _opened(path) as original:
        compressed = unpacked.compression(original) is not None
        in_place = request.output is None and not compressed
        output = path if in_place else _new_file(request.output or _unpacked_name(path))
        try:
            with _work_folder(output.parent, output.name) as work:
                copy = work / "image"
                with copy.open("w+b") as image:
                    _copy(request, original, image.fileno(), compressed)
                    outcome = _change_copy(request, bundle, image.fileno(), work)
                    _take_owner(original.fileno(), image.fileno())
                    os.fsync(image.fileno())
                if not request.dry_run:
                    _publish(copy, output, original.fileno() if in_place else None)
        except OSError as error:
            raise disk_error(error, output.parent) from None
    return replace(outcome, target=str(output))


def _flash_device(request: FlashRequest, bundle: Bundle) -> FlashResult:
    request.refuse("a block device", grow=request.grow, output=request.output)
    name = request.target
    work_parent = cache.root()
    with block_device.opened(
        name, request.max_size, yes=request.yes, writable=not request.dry_run
    ) as (device, size):
        try:
            with _work_folder(work_parent, "flash") as work:
                return _change_device(request, bundle, device, size, work)
        except OSError as error:
            raise disk_error(error, work_parent) from None


def _change_device(
    request: FlashRequest, bundle: Bundle, device: int, size: int, work: Path
) -> FlashResult:
    """Install the bundle into a copy of a device's metadata, then write what differs."""
    root = _root_partition(device, read_table(device, size))
    files = FileSystem(device, root.start, root.size)
    with (
        (work / "before").open("w+b") as before,
        (work / "after").open("w+b") as after,
        (work / "undo").open("w+b") as undo,
    ):
        files.copy_metadata(before.fileno())
        before.truncate(root.size)
        unpacked.copy(before.fileno(), after.fileno(), lambda _size: None)
        hint = "Boot the device once, which enlarges it to the whole card, or use a larger card."
        metadata = FileSystem(after.fileno(), 0, root.size)
        outcome = _install(
            request, bundle, _Root(number=root.number, source=files, copy=metadata, hint=hint), work
        )
        if request.dry_run:
            return outcome
        ranges = block_device.changed(before.fileno(), after.fileno(), root.size)
        amount = 2 * sum(end - start for part in ranges for start, end in part)
        title = f"Writing and comparing {request.target}"
        with console.step(title), console.progress(title, amount) as advance:
            block_device.write(device, root.start, after.fileno(), ranges, undo.fileno(), advance)
    return outcome


def _change_copy(request: FlashRequest, bundle: Bundle, image: int, work: Path) -> FlashResult:
    """Install the bundle into the copy of an image."""
    table = read_table(image, os.fstat(image).st_size)
    root = _root_partition(image, table)
    files = FileSystem(image, root.start, root.size)
    if request.grow is not None:
        files = _grow(request.grow, image, table, root, work)
    hint = "Pass --grow SIZE, for instance --grow 2G."
    return _install(
        request, bundle, _Root(number=root.number, source=files, copy=files, hint=hint), work
    )


def _install(request: FlashRequest, bundle: Bundle, root: _Root, work: Path) -> FlashResult:
    """Install the bundle into the copy of a file system, and check the copy."""
    with console.step("Checking the root file system"):
        root.copy.check()
    difference = _difference(request, bundle, root.source, work)
    difference.check_space(root.copy, SPARE_BYTES, root.hint)
    if request.dry_run:
        for line in difference.lines():
            console.note(f"partition {root.number}: {line}")
    total = difference.content_bytes
    title = "Writing the release into the copy"
    with console.step(title), console.progress(title, total) as advance:
        difference.write(root.copy, advance)
    title = "Checking the copy"
    with console.step(title), console.progress(title, total) as advance:
        root.copy.check()
        difference.compare(root.copy, advance)
    written = {path.partition(f"/{bundle.digest}/")[2] for path in difference.files}

    def shared(record: Record) -> Path | None:
        return None if record.path in written else difference.root / record.path

    return result(request, bundle, whole(request, bundle, shared))


def _difference(request: FlashRequest, bundle: Bundle, source: FileSystem, work: Path) -> Changes:
    """Install the bundle into a folder with the files of a file system, and compare."""
    # In the folder, in the copy, and for a card what both replace.
    needed = 3 * bundle.manifest.installed_size + SPARE_BYTES
    free = shutil.disk_usage(work).free
    if free < needed:
        raise ResourceError(
            f"{work.parent} has {free >> 20} MiB free; the release needs {needed >> 20} MiB there "
            "while it is written",
            hint="Free some space there, or pass --output on a larger disk.",
        )
    scratch = Scratch(source, work, free - needed)
    title = "Reading what is installed"
    with console.step(title):
        scratch.prepare()
        with console.progress(title, scratch.total_bytes) as advance:
            scratch.copy(advance)
    before = snapshot(scratch.root)
    title = f"Unpacking {request.bundle.name}"
    total = sum(blob.size for blob in bundle.manifest.blobs.values())
    with console.step(title), console.progress(title, total) as advance:
        try:
            installed = install(
                bundle,
                scratch.root,
                policy=request.policy,
                settings=request.settings,
                on_bytes=advance,
            )
        except DeviceError as error:
            # The user knows the image, not the folder.
            error.args = (str(error).replace(str(scratch.root), request.target),)
            raise
    for text in installed.notes:
        console.note(text)
    return changes(scratch, before, snapshot(scratch.root))


def _root_partition(disk: int, table: Table) -> Partition:
    """Find the partition with the root file system.

    Raises:
        FlashError: there is none, or more than one.
    """
    roots = [
        partition
        for partition in table.partitions
        if read_superblock(disk, partition.start, partition.size) is not None
        and Tree(FileSystem(disk, partition.start, partition.size)).is_root()
    ]
    if len(roots) != 1:
        numbers = ", ".join(str(partition.number) for partition in roots) or "none"
        raise FlashError(
            f"expected one partition with an ext4 root file system; found: {numbers}",
            hint="Use an image with a Linux system on ext4; with several systems in it, mount the "
            "right one and pass its mount point.",
        )
    return roots[0]


def _grow(amount: int, image: int, table: Table, root: Partition, work: Path) -> FileSystem:
    """Enlarge an image, its last partition and the root file system in it."""
    if root != table.partitions[-1]:
        raise FlashError(
            f"partition {root.number} with the root file system is not the last of the image",
            hint="Enlarge the image with parted, and flash it without --grow.",
        )
    with console.step(f"Enlarging the root file system by {gigabytes(amount)}"):
        size = -(-(os.fstat(image).st_size + amount) // ALIGNMENT) * ALIGNMENT
        # resize2fs cuts a file off after the file system, as if that began at the file's start.
        with tempfile.TemporaryFile(dir=work) as alone:
            part = alone.fileno()
            for start, end in unpacked.data_ranges(image, root.end, root.start):
                unpacked.copy_range(image, part, start, end, -root.start)
            os.ftruncate(image, root.start)
            os.ftruncate(image, size)
            grown = grow_last(image, table, size)
            os.ftruncate(part, grown.size)
            files = FileSystem(part, 0, grown.size)
            files.check()
            files.resize(grown.size)
            for start, end in unpacked.data_ranges(part, grown.size):
                unpacked.copy_range(part, image, start, end, grown.start)
    return FileSystem(image, grown.start, grown.size)


def _copy(request: FlashRequest, original: IO[bytes], image: int, compressed: bool) -> None:
    name = Path(original.name).name
    title = f"{'Unpacking' if compressed else 'Copying'} {name}"
    size = os.fstat(original.fileno()).st_size
    with console.step(title), console.progress(title, size) as advance:
        if compressed:
            unpacked.unpack(original, image, request.max_size, advance)
        else:
            unpacked.copy(original.fileno(), image, advance)


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise FlashError(
            f"{path} cannot be read: {error.strerror}", hint="Check who may read it."
        ) from None


def _unpacked_name(path: Path) -> Path:
    """Return the path of the image in a compressed file: `a.img.xz` or `a.zip` has `a.img`."""
    return path.with_suffix(".img" if path.suffix == ".zip" else "")


def _new_file(path: Path) -> Path:
    if path.exists():
        raise FlashError(
            f"{path} exists already", hint="Pass another name with --output, or remove the file."
        )
    return path.absolute()


@contextmanager
def _work_folder(parent: Path, name: str) -> Iterator[Path]:
    """Create a folder that is removed at the end, whatever happens."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name[:40]}.") as folder:
        yield Path(folder)


def _take_owner(original: int, image: int) -> None:
    """Give a new image the mode and the owner of the original."""
    status = os.fstat(original)
    os.fchmod(image, stat.S_IMODE(status.st_mode))
    with suppress(PermissionError):
        os.fchown(image, status.st_uid, status.st_gid)


def _publish(copy: Path, output: Path, original: int | None) -> None:
    """Give a complete image its name.

    Args:
        copy: the image.
        output: its name.
        original: the file that has the name now; None if there is none.

    Raises:
        FlashError: another file has the name now.
    """
    if original is not None and not os.path.samestat(output.stat(), os.fstat(original)):
        raise FlashError(f"{output} was exchanged meanwhile", hint="Try again.")
    copy.replace(output)
    with open_folder(output.parent) as folder:
        folder.sync()

"""The transfer of a bundle to a device over SSH; `device_runtime.update.incoming` is its end."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import IO, TypeVar

import msgspec

from device_runtime.bundle.manifest import DAMAGED
from device_runtime.bundle.release import CHUNK
from device_runtime.bundle.source import Source
from device_runtime.errors import BundleError, InstallError
from device_runtime.update.incoming import ANSWER, Head, Lacking, Missing, Received
from packager import console
from packager.errors import FlashError, ResourceError
from packager.flash import bootstrap, remote
from packager.flash.connection import Connection, DeviceCommandError
from packager.flash.remote import Facts
from packager.run import Program

FOLDER = ".cache/edgepack/incoming"
"""Folder of transfers in the user's home on the device; the names in it are digests."""
MAX_ANSWER = 8 << 20
"""Limit on a line of an answer, bytes: 20,000 blobs are less."""

Answer = TypeVar("Answer", bound=msgspec.Struct)


class Upload:
    """The transfer of one bundle.

    Attributes:
        folder: its folder on the device, from the user's home.
        source: path of what the installer there takes: the folder, or an update in it.
        program: the runtime on the device that takes part; the installed one if it can.
        moved: bytes sent by component.
    """

    def __init__(self, device: Connection, bundle: Source, facts: Facts) -> None:
        self.source = self.folder = f"{FOLDER}/{bundle.digest}"
        self.program = remote.PROGRAM if facts.has_program else ""
        self.moved: Counter[str] = Counter(runtime=0, model=0, tokenizer=0, other=0)
        self._device = device
        self._bundle = bundle
        self._facts = facts
        self._components = {r.blob.sha256: r.component for r in bundle.manifest.records if r.blob}

    def preview(self) -> None:
        """Count in `moved` what would be sent; nothing is written on the device.

        Raises:
            FlashError: the connection is lost, or the device answers with nonsense.
        """
        if self.program:
            with suppress(DeviceCommandError):
                return self._count(self._receive("--dry-run"))
        self.program = self._own_program
        if self._is_bootstrapped():
            return self._count(self._receive("--dry-run"))
        self.moved["other"] += len(self._head())
        with bootstrap.archive(self._bundle) as file:
            self.moved["runtime"] = file.seek(0, 2)
        self._count(self._model())
        return None

    def send(self, *, whole: bool = False) -> None:
        """Send what the device lacks.

        Args:
            whole: send also what the device has in releases, since that may be damaged.

        Raises:
            BundleError: the bundle is damaged.
            DeviceCommandError: the device refused, and has said why.
            FlashError: the connection is lost, or data arrived damaged twice.
            ResourceError: the device has too little free space.
        """
        self.source = self.folder
        flags = ["--whole"] if whole else []
        if self.program:
            try:
                return self._send(*flags)
            except DeviceCommandError as error:
                final = error.exit_code in (InstallError.exit_code, ResourceError.exit_code)
                if final or self.program == self._own_program:
                    raise
            console.note("The runtime on the device takes no transfers: sending one that does.")
        self._bootstrap()
        self.program = self._own_program
        return self._send(*flags)

    def send_update(self, update: Path) -> None:
        """Send the file of an update to the bundle, for a device that has what it builds on.

        A transfer that was cut goes on: the file has its digest as its name there, and the same
        bundles give the same update.

        Raises:
            DeviceCommandError: the device refused, and has said why.
            FlashError: the connection is lost.
        """
        with update.open("rb") as file:
            self.source = self._send_file(file, ".epk", "other")

    @property
    def _own_program(self) -> str:
        return f"{self.folder}/{bootstrap.PROGRAM}"

    def _is_bootstrapped(self) -> bool:
        try:
            self._device.run(f"test -x {self._own_program}")
        except DeviceCommandError:
            return False
        return True

    def _model(self) -> list[Missing]:
        """List the blobs that are not the runtime's."""
        return [
            Missing(sha256=digest, size=blob.size, present=0)
            for digest, blob in self._bundle.manifest.blobs.items()
            if self._components[digest] != "runtime"
        ]

    def _count(self, missing: Iterable[Missing]) -> None:
        for blob in missing:
            self.moved[self._components[blob.sha256]] += blob.size - blob.present

    def _send(self, *flags: str) -> None:
        if self._receive(*flags):
            console.note("Some data arrived damaged: sending it again.")
            if self._receive(*flags):
                raise FlashError(
                    f"data arrived damaged twice on {self._device.address.shown}",
                    hint="Check the device's disk and memory.",
                )

    def _receive(self, *flags: str) -> list[Missing]:
        """Run one transfer; return what was damaged, or with `--dry-run` what is missing."""
        command = " ".join((self.program, "receive", *flags, self.folder))
        with self._device.start(command, stdout=PIPE) as process:
            assert process.stdin is not None
            remaining: list[Missing] | None = None
            try:
                self.moved["other"] += len(self._head())
                process.stdin.write(self._head())
                process.stdin.flush()
                missing = self._answer(process, Lacking).missing
                self._check(missing)
                if "--dry-run" in flags:
                    remaining = list(missing)
                else:
                    self._send_blobs(process.stdin, missing)
                    damaged = self._answer(process, Received).damaged
                    remaining = [blob for blob in missing if blob.sha256 in damaged]
            except BrokenPipeError:
                pass  # it has ended early; its exit code says more
            with suppress(BrokenPipeError):
                process.stdin.close()
            self._device.check(process.wait())
        if remaining is None:
            raise self._nonsense()
        return remaining

    def _head(self) -> bytes:
        parts = (self._bundle.manifest_bytes, self._bundle.signature, self._bundle.sbom)
        manifest, signature, sbom = map(len, parts)
        head = Head(manifest=manifest, signature=signature, sbom=sbom)
        return b"".join((msgspec.json.encode(head), b"\n", *parts))

    def _answer(self, process: Program, kind: type[Answer]) -> Answer:
        """Read an answer, after the lines that the user's shell may print.

        Raises:
            BrokenPipeError: there is none, and the program has ended.
            FlashError: it is not valid.
        """
        assert process.stdout is not None
        while line := process.stdout.readline(MAX_ANSWER):
            if line.startswith(ANSWER.encode()):
                try:
                    return msgspec.json.decode(line.removeprefix(ANSWER.encode()), type=kind)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise self._nonsense() from None
        raise BrokenPipeError

    def _check(self, missing: Iterable[Missing]) -> None:
        blobs = self._bundle.manifest.blobs
        for blob in missing:
            known = blobs.get(blob.sha256)
            if known is None or blob.size != known.size or not 0 <= blob.present <= blob.size:
                raise self._nonsense()

    def _nonsense(self) -> FlashError:
        return FlashError(
            f"{self._device.address.shown} does not answer as an edgepack runtime does",
            hint="Remove /var/lib/edgepack/current there if its release is damaged.",
        )

    def _send_blobs(self, stream: IO[bytes], missing: Iterable[Missing]) -> None:
        blobs = self._bundle.manifest.blobs
        total = sum(blob.size - blob.present for blob in missing)
        with console.progress("Sending", total) as advance:
            for blob in missing:
                component = self._components[blob.sha256]
                hasher = hashlib.sha256()
                skip = blob.present
                for chunk in self._bundle.chunks(blobs[blob.sha256]):
                    hasher.update(chunk)
                    rest = chunk[skip:]
                    skip -= len(chunk) - len(rest)
                    stream.write(rest)
                    self.moved[component] += len(rest)
                    advance(len(rest))
                if hasher.hexdigest() != blob.sha256:
                    raise BundleError(f"blob {blob.sha256} is damaged", hint=DAMAGED)
        stream.flush()

    def _bootstrap(self) -> None:
        """Send the runtime's files and unpack them, unless that is done."""
        if self._is_bootstrapped():
            return
        with bootstrap.archive(self._bundle) as file:
            self._check_space(file.seek(0, 2))
            path = self._send_file(file, ".tar.gz", "runtime")
            self._shell(bootstrap.unpack_script(self.folder, path))

    def _send_file(self, file: IO[bytes], suffix: str, component: str) -> str:
        """Send a file into the folder, where its name begins with its digest; return its path."""
        size = file.seek(0, 2)
        file.seek(0)
        hasher = hashlib.sha256()
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
        sha256 = hasher.hexdigest()
        path = f"{self.folder}/{sha256}{suffix}"
        check = f'echo "{sha256}  {path}" | sha256sum -c - >/dev/null'
        for again in (True, False):
            self._append(file, size, path, component)
            try:
                self._shell(f"if ! {check}; then rm -f {path}; exit 1; fi")
            except DeviceCommandError:
                if not again:
                    raise
            else:
                break
        return path

    def _append(self, file: IO[bytes], size: int, path: str, component: str) -> None:
        """Send what a file on the device lacks at its end."""
        script = f"umask 077 && mkdir -p {self.folder} && : >>{path} && wc -c <{path}"
        present = self._shell(script).split()[-1:]
        offset = int(present[0]) if present and present[0].isdecimal() else 0
        file.seek(min(offset, size))
        with (
            console.progress("Sending", size - file.tell()) as advance,
            self._device.start(f"sh -c 'cat >>{path}'") as process,
        ):
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                while chunk := file.read(CHUNK):
                    process.stdin.write(chunk)
                    self.moved[component] += len(chunk)
                    advance(len(chunk))
            with suppress(BrokenPipeError):
                process.stdin.close()
            self._device.check(process.wait())

    def _check_space(self, archive: int) -> None:
        """Refuse a device whose disk cannot hold the transfer."""
        runtime = sum(r.size for r in self._bundle.manifest.records if r.component == "runtime")
        needed = archive + runtime + sum(blob.size for blob in self._model())
        if self._facts.free < needed:
            raise ResourceError(
                f"{self._device.address.shown} has {self._facts.free >> 20} MiB free; the transfer "
                f"needs {needed >> 20} MiB",
                hint="Free some space there, or use a smaller model.",
            )

    def _shell(self, script: str) -> str:
        """Run a script without single quotes in a POSIX shell, whichever the user's own is."""
        return self._device.run(f"sh -c '{script}'")

"""Flash a running device over SSH.

1. The device is asked for its architecture and for what a transfer needs (`remote`).
2. Without a runtime of ours it gets one first (`bootstrap`).
3. `edgepack-runtime receive` there takes the blobs that it lacks (`upload`) into a folder of the
   user's home; or an update is made and sent there, if its release is known and that moves less.
   A transfer that was cut goes on where it ended.
4. `edgepack-runtime install` there, as root, does the rest: until it has verified everything, the
   device keeps its release.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import msgspec
from msgspec.structs import replace

from device_runtime.bundle.reader import open_bundle
from device_runtime.errors import BundleError
from device_runtime.update import config
from device_runtime.update.first_boot import FirstBoot
from packager import console
from packager.diff import diff
from packager.errors import FlashError
from packager.flash import remote
from packager.flash.connection import AGAIN, Connection, DeviceCommandError, connect, parse
from packager.flash.remote import Facts
from packager.flash.request import FlashRequest, FlashResult, result
from packager.flash.upload import Upload
from packager.units import megabytes

DESCRIPTION = "the address of a device, ssh://USER@HOST"
SETTINGS = "settings.json"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells: 128 + SIGINT."""


def accepts(target: str) -> bool:
    """Return whether the target is the address of a device."""
    return target.startswith("ssh:")


def flash(request: FlashRequest) -> FlashResult:
    """Install a bundle on a running device.

    Raises:
        FlashError: there is no connection, the device cannot run the bundle, or the user there may
            not install.
        DeviceCommandError: the device refused, and has said why.
        BundleError: the bundle is damaged.
    """
    request.refuse("a device over SSH", grow=request.grow, output=request.output)
    address = parse(request.target)
    if request.policy.unsigned:
        raise FlashError(
            f"{address.shown} decides itself whether it takes unsigned bundles",
            hint="Sign the bundle (edgepack sign), or write allow_unsigned = true into "
            f"/{config.FILE} there.",
        )
    with (
        open_bundle(request.bundle) as bundle,
        connect(address) as device,
        tempfile.TemporaryDirectory(prefix="edgepack-") as scratch,
    ):
        facts = remote.ask(device)
        remote.check(device, facts, bundle.manifest, request.policy)
        root = _Root.of(device, facts, request.sudo_password)
        upload = Upload(device, bundle, facts)
        update = Path(scratch, "update.epk")
        smaller = _make_update(request, update, facts, Upload(device, bundle, facts))
        if request.dry_run:
            if smaller:
                upload.moved["other"] = update.stat().st_size
            else:
                upload.preview()
            upload.moved["other"] += len(_settings(request))
        else:
            with _resumable(upload):
                with console.step(f"Sending {request.bundle.name} to {address.shown}"):
                    if smaller:
                        upload.send_update(update)
                    else:
                        upload.send()
                with console.step(f"Installing on {address.shown}"):
                    _install(device, upload, root, request)
        return result(request, bundle, upload.moved)


def _make_update(request: FlashRequest, path: Path, facts: Facts, usual: Upload) -> bool:
    """Write the update from the device's release; return whether it moves less than `usual`."""
    if request.delta_from is None:
        return False
    with open_bundle(request.delta_from) as old:
        name = f"{request.delta_from.name} ({old.manifest.version})"
        runs = facts.has_program and facts.current == old.digest
    if runs:
        usual.preview()
    if not runs or usual.program != remote.PROGRAM:  # which may not start
        console.note(f"The device does not run {name}: sending all that it lacks.")
        return False
    diff(request.delta_from, request.bundle, path)
    moved, whole = path.stat().st_size, usual.moved.total()
    if moved >= whole:
        console.note(
            f"The update from {name} has {megabytes(moved)}, what the device lacks of the bundle "
            f"{megabytes(whole)}: sending that."
        )
    return moved < whole


@dataclass(frozen=True, kw_only=True)
class _Root:
    """A way to run a command as root on the device.

    Attributes:
        prefix: words before the command.
        data: standard input of the command: the password for sudo.
        tty: sudo asks the user.
    """

    prefix: str = ""
    data: bytes = b""
    tty: bool = False

    @classmethod
    def of(cls, device: Connection, facts: Facts, password: Path | None) -> "_Root":
        """Choose a way.

        Raises:
            FlashError: there is none, or the password is wrong.
        """
        shown = device.address.shown
        if facts.is_root:
            return cls()
        if facts.sudo == "free":
            return cls(prefix="sudo -n ")
        if not facts.sudo:
            raise FlashError(
                f"{shown} is not root and has no sudo",
                hint="Install sudo there, or connect as root: ssh://root@HOST",
            )
        if password is not None:
            root = cls(prefix='sudo -S -p "" ', data=password.read_bytes().rstrip(b"\n") + b"\n")
            try:
                device.run(f"{root.prefix}true", root.data)
            except DeviceCommandError:
                raise FlashError(
                    f"sudo on {shown} does not take the password in {password}",
                    hint="The user may need the right to use sudo: see sudo's message above.",
                ) from None
            return root
        if not sys.stdin.isatty():
            raise FlashError(
                f"sudo on {shown} asks for a password, and there is no terminal to ask on",
                hint="Pass --sudo-password-file FILE, or allow the user sudo without a password.",
            )
        return cls(prefix="sudo ", tty=True)


def _install(device: Connection, upload: Upload, root: _Root, request: FlashRequest) -> None:
    """Run the installer on the device; its folder is removed when it has succeeded.

    Raises:
        DeviceCommandError: the device refused, and has said why.
    """
    words = ["--force"] if request.policy.force else []
    words += ["--allow-downgrade"] if request.policy.downgrade else []
    settings = f"{upload.folder}/{SETTINGS}"
    data = _settings(request)
    upload.moved["other"] += len(data)
    device.run(f"sh -c 'umask 077 && cat >{settings}'", data)
    words += ["--settings", settings]
    try:
        try:
            _as_root(device, root, upload, words)
        except DeviceCommandError as error:
            if error.exit_code != BundleError.exit_code:
                raise
            console.note("A file that the device has may be damaged: sending everything.")
            upload.send(whole=True)
            _as_root(device, root, upload, words)
    finally:
        with suppress(FlashError):  # the connection may be lost
            device.run(f"rm -f {settings}")
    device.run(f"rm -rf {upload.folder}")


def _settings(request: FlashRequest) -> bytes:
    keys = tuple(pem.decode() for pem in request.policy.keys)
    return msgspec.json.encode(replace(request.settings or FirstBoot(), keys=keys))


def _as_root(device: Connection, root: _Root, upload: Upload, options: list[str]) -> None:
    command = root.prefix + " ".join((upload.program, "install", upload.source, *options))
    with device.start(command, tty=root.tty, stdin=None if root.tty else PIPE) as process:
        if process.stdin is not None:
            process.stdin.write(root.data)
            process.stdin.close()
        device.check(process.wait())


@contextmanager
def _resumable(upload: Upload) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        error = FlashError(
            f"interrupted; what has arrived stays in ~/{upload.folder} on the device", hint=AGAIN
        )
        error.exit_code = INTERRUPTED
        raise error from None

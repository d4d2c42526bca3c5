"""A device that is reached over SSH: a real sshd and sudo in a copy of this machine's root.

The copy is an overlay in a mount namespace of its own, so what is installed on the device is in
`upper`, and this machine stays as it is. Root only.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from device_runtime.bundle.manifest import RUNTIME_ENTRY, Blob, Component, Record
from device_runtime.bundle.release import open_release
from tests.support.bundles import Draft, digest, draft
from tests.support.commands import Outcome, environment
from tests.support.disks import small_disk
from tests.support.ports import free_port, listens

REPOSITORY = Path(__file__).parents[2]
USER = "edge"
PASSWORD = "correct horse"
UID = 4242

_SSHD = """\
ListenAddress 127.0.0.1
HostKey /etc/ssh/device_key
AuthorizedKeysFile /etc/ssh/device_users
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
AcceptEnv nothing
"""

_START = """\
mount -t overlay overlay -o lowerdir=/,upperdir=$0/upper,workdir=$0/work $0/root
mount --rbind /proc $0/root/proc
mount --rbind /dev $0/root/dev
exec chroot $0/root /usr/sbin/sshd -D -e -p $1 -f /etc/ssh/device_config
"""


class SshDevice:
    """The device.

    Attributes:
        upper: what differs on it from this machine.
        port: port of its sshd on loopback.
        bin: folder with an `ssh` that has the client's configuration.
        environment: environment of a client.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upper = folder / "upper"
        self.bin = folder / "bin"
        self.home = self.upper / "home" / USER
        self.port = free_port()
        self.environment = {**environment(), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        self._sshd: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        return self.upper / "var/lib/edgepack"

    @property
    def incoming(self) -> Path:
        """Folder of the transfers of the user."""
        return self.home / ".cache/edgepack/incoming"

    @property
    def current(self) -> str:
        """Digest of the current release; empty if there is none."""
        link = self.state / "current"
        return link.readlink().name if link.is_symlink() else ""

    def url(self, user: str = USER) -> str:
        return f"ssh://{user}@127.0.0.1:{self.port}"

    def make(self, sudoers: str, *, allow_unsigned: bool) -> None:
        for name in ("upper/etc/ssh", "upper/etc/sudoers.d", "upper/run/sshd", "work", "root"):
            (self.folder / name).mkdir(parents=True)
        (self.upper / "root").mkdir()  # its mode lets the user run this repository's Python
        self.home.mkdir(parents=True)
        (self.home / ".bashrc").write_text("echo Welcome to the edge\n")
        os.chown(self.home, UID, UID)
        self.bin.mkdir()
        for name in ("device_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder}/{name}"]
            subprocess.run(command, check=True)
        etc = self.upper / "etc"
        if allow_unsigned:
            (etc / "edgepack").mkdir()
            (etc / "edgepack/update.toml").write_text("allow_unsigned = true\n")
        shutil.copy(self.folder / "device_key", etc / "ssh")
        shutil.copy(self.folder / "user_key.pub", etc / "ssh/device_users")
        (etc / "ssh/device_config").write_text(_SSHD)
        secret = subprocess.run(
            ["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name, line in (
            ("passwd", f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/bash"),
            ("group", f"{USER}:x:{UID}:"),
            ("shadow", f"{USER}:{secret}:19000::::::"),
        ):
            (etc / name).write_text(f"{Path('/etc', name).read_text()}{line}\n")
        (etc / "shadow").chmod(0o600)
        (etc / f"sudoers.d/{USER}").write_text(sudoers)
        host_key = (self.folder / "device_key.pub").read_text()
        self.trust(host_key)
        config = self.folder / "config"
        config.write_text(
            f"IdentityFile {self.folder}/user_key\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.folder}/known_hosts\nGlobalKnownHostsFile none\n"
        )
        wrapper = self.bin / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        wrapper.chmod(0o755)

    def trust(self, host_key: str) -> None:
        """Let the client know a key of the device, and no other."""
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")

    def start(self) -> None:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _START]
        with (self.folder / "log").open("wb") as log:
            self._sshd = subprocess.Popen(
                [*command, self.folder, str(self.port)], stdin=subprocess.DEVNULL, stderr=log
            )
        for _ in range(500):
            if listens(self.port):
                return
            assert self._sshd.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)
        raise AssertionError("sshd does not listen")

    def flash(self, bundle: Path, *arguments: str | Path, user: str = USER) -> Outcome:
        """Flash the device, without a terminal."""
        done = subprocess.run(
            self.command(bundle, *arguments, user=user),
            capture_output=True,
            text=True,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run(self, command: str) -> None:
        """Run a command as root on the device: what is changed below `upper` may not be seen."""
        words = ["ssh", "-p", str(self.port), "root@127.0.0.1", command]
        subprocess.run(words, check=True, env=self.environment, stdin=subprocess.DEVNULL)

    def command(self, bundle: Path, *arguments: str | Path, user: str = USER) -> list[str]:
        command = [sys.executable, "-m", "packager", "flash", bundle, self.url(user), *arguments]
        return [str(word) for word in command]

    def cut(self) -> None:
        """End all sessions, as a lost network does."""
        assert self._sshd is not None
        for process in psutil.Process(self._sshd.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended with one before it
                process.kill()

    def stop(self) -> None:
        if self._sshd is not None:
            self.cut()
            self._sshd.kill()
            self._sshd.wait()
            self._sshd = None


@contextmanager
def ssh_device(
    folder: Path,
    *,
    sudoers: str = f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    disk: str = "2g",
    allow_unsigned: bool = True,
) -> Iterator[SshDevice]:
    """A device in a new folder, on a disk of that size."""
    with small_disk(folder, disk):
        device = SshDevice(folder)
        device.make(sudoers, allow_unsigned=allow_unsigned)
        try:
            device.start()
            yield device
        finally:
            device.stop()


def with_file(
    bundle: Draft, path: str, content: bytes, component: Component = "model", mode: int = 0o644
) -> Draft:
    """The bundle with a file, in the place of another one of its path."""
    sha256 = digest(content)
    blob = Blob(sha256=sha256, size=len(content))
    record = Record(
        path=path, component=component, mode=mode, size=len(content), sha256=sha256, blob=blob
    )
    kept = tuple(other for other in bundle.manifest.records if other.path != path)
    changed = replace(bundle, blobs={**bundle.blobs, sha256: content})
    return changed.replaced(records=(*kept, record))


def runnable(bundle: Draft | None = None, comment: str = "") -> Draft:
    """A bundle whose program is this repository's runtime."""
    script = f"""#!/bin/sh
# {comment}
PYTHONPATH={REPOSITORY} exec {sys.executable} -m device_runtime "$@"
"""
    return with_file(bundle or draft(), RUNTIME_ENTRY, script.encode(), "runtime", 0o755)


def moved(outcome: Outcome) -> dict[str, int]:
    """Bytes that a flash with --json has sent, by component."""
    assert outcome.status == 0, outcome.err
    counts: dict[str, int] = json.loads(outcome.out)["moved"]
    return counts


def current(device: SshDevice) -> Path:
    """Check the current release, byte for byte; return its folder."""
    release = open_release(device.state / "releases" / device.current)
    release.verify()
    return release.folder


def run_until(
    device: SshDevice,
    bundle: Path,
    pattern: str,
    threshold: int,
    act: Callable[[], None],
    started: list[subprocess.Popen[str]] | None = None,
    arguments: tuple[str | Path, ...] = (),
) -> Outcome:
    """Flash, and act once a file of a transfer has a size."""
    with subprocess.Popen(
        device.command(bundle, *arguments),
        env=device.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if started is not None:
            started.append(process)
        while largest(device.incoming, pattern) < threshold:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        act()
        out, err = process.communicate(timeout=60)
        return Outcome(process.returncode, out, err)


def largest(folder: Path, pattern: str) -> int:
    """Bytes of the largest file; 0 while another process moves files away."""
    try:
        return max((path.stat().st_size for path in folder.rglob(pattern)), default=0)
    except FileNotFoundError:
        return 0

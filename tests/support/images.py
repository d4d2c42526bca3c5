"""Disk images as boards' vendors publish them, small: a FAT partition and a root on ext4."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packager.flash.unpacked import data_ranges
from tests.support.commands import Outcome, environment
from tests.support.targets import ELF_X86_64, make_root

MIB = 1 << 20
NOBODY = 65534
FAT_START = 4 * MIB
ROOT_START = 68 * MIB
TABLES = {
    "mbr": "label: dos\nstart=8192, size=131072, type=c\nstart=139264, type=83\n",
    "gpt": "label: gpt\nstart=8192, size=131072, type=U\nstart=139264, type=L, name=APP\n",
}


def device_tree(root: Path) -> Path:
    """Make a root file system in the manner of Debian."""
    make_root(root, ELF_X86_64)
    (root / "lib").symlink_to("usr/lib")
    library = root / "usr/lib/x86_64-linux-gnu/libc.so.6"
    library.parent.mkdir()
    library.write_bytes(b"GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n")
    # So many entries that ext4 keeps an index of the folder.
    for number in range(300):
        (root / f"var/lib/a-package-with-a-long-name-{number:03}").mkdir(parents=True)
    for path in ("etc/systemd/system/multi-user.target.wants", "usr/local/bin", "boot/firmware"):
        (root / path).mkdir(parents=True)
    unit = root / "etc/systemd/system/multi-user.target.wants/ssh.service"
    unit.symlink_to("/lib/systemd/system/ssh.service")
    return root


def make_image(path: Path, table: str, tree: Path, size: int = 256 * MIB) -> Path:
    """Make a sparse image with a table of a kind and a root partition up to its end."""
    with path.open("wb") as file:
        file.truncate(size)
    run("sfdisk", "-q", path, script=TABLES[table])
    run("mkfs.vfat", "-F", "16", "--offset", str(FAT_START // 512), path, "65536")
    end = size - (MIB if table == "gpt" else 0)
    offset = f"offset={ROOT_START}"
    blocks = f"{(end - ROOT_START) >> 10}k"
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", offset, "-d", tree, path, blocks)
    return path


def run(*command: str | Path, script: str = "") -> str:
    """Run a program that must succeed, and return its output."""
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def debugfs(image: Path, *commands: str) -> str:
    """Change or read the root file system of an image."""
    script = "".join(f"{command}\n" for command in commands)
    return run("debugfs", "-w", "-f", "-", address(image), script=script)


def address(image: Path) -> str:
    """The root file system of an image, as e2fsprogs takes it."""
    return f"{image}?offset={ROOT_START}"


def check(image: Path) -> None:
    """The root file system is clean."""
    output = run("e2fsck", "-f", "-n", address(image))
    assert "? no" not in output, output


def extract(image: Path, folder: Path) -> Path:
    """Copy the root file system of an image into a new folder, with owners and modes."""
    folder.mkdir()
    run("debugfs", "-R", f"rdump / {folder}", address(image))
    (folder / "lost+found").rmdir()
    return folder


@dataclass(frozen=True)
class Node:
    """All of a file, a folder or a link that a program on the device can see."""

    mode: int
    owner: tuple[int, int]
    content: str


def nodes(root: Path) -> dict[str, Node]:
    """Everything below a folder."""
    tree = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = digest(path)
        owner = (status.st_uid, status.st_gid)
        tree[path.relative_to(root).as_posix()] = Node(status.st_mode, owner, content)
    return tree


def bytes_at(image: Path, offset: int, length: int) -> bytes:
    with image.open("rb") as file:
        return os.pread(file.fileno(), length, offset)


def digest(path: Path) -> str:
    """The digest of a file's length and of its blocks that are not zero, with their places."""
    hasher = hashlib.sha256(b"%d" % path.stat().st_size)
    with path.open("rb") as file:
        for start, end in data_ranges(file.fileno(), path.stat().st_size):
            for place in range(start, end, 4096):
                block = os.pread(file.fileno(), min(4096, end - place), place)
                if block.strip(b"\0"):
                    hasher.update(b"%d %s" % (place, block))
    return hasher.hexdigest()


@contextmanager
def nobodys_folder() -> Iterator[Path]:
    """A new folder of an ordinary user, which the tests' own folders are closed to."""
    with tempfile.TemporaryDirectory(prefix="nobody-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "home").mkdir()
        run("chown", "-R", f"{NOBODY}:{NOBODY}", folder)
        yield folder


def flash_as_nobody(folder: Path, *arguments: str | Path) -> Outcome:
    """Run `edgepack flash` as an ordinary user whose home is in a folder."""
    run("chown", "-R", f"{NOBODY}:{NOBODY}", folder)
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
    command = ["setpriv", *ids, sys.executable, "-m", "packager", "flash", *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**environment(folder / "home"), "HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)

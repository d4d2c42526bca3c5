"""Run `edgepack` as on another system: with what that system lacks taken away.

    python -m tests.support.other_system Windows|Darwin < COMMANDS

Each line of the input is a command, a JSON array of its words; each line of the output its outcome.
All modules of the host are imported first. What is taken away: modules and functions that Python's
documentation marks as not available there, the folders /proc and /sys, and what Windows' folders
and links cannot do. The standard library and the packages of others are imported before, since they
have code of their own for each system. Jobs, which are processes of their own, run as on Linux.
"""

import contextlib
import ctypes
import errno
import importlib
import io
import json
import os
import pkgutil
import platform
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.support.commands import Outcome, environment

SYSTEMS = {"Darwin": ("darwin", "arm64"), "Windows": ("win32", "AMD64")}
MODULES = (
    "crypt", "curses", "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource", "spwd",
    "syslog", "termios", "tty",
)  # fmt: skip
LINUX_ONLY = (
    "copy_file_range", "eventfd", "getrandom", "getxattr", "listxattr", "memfd_create",
    "pidfd_open", "posix_fadvise", "posix_fallocate", "removexattr", "sched_getaffinity",
    "sched_setaffinity", "setns", "setxattr", "splice", "unshare", "O_PATH", "O_TMPFILE",
    "O_DIRECT", "O_NOATIME", "POSIX_FADV_DONTNEED",
)  # fmt: skip
POSIX_ONLY = (
    "chown", "chroot", "confstr", "ctermid", "fchdir", "fchmod", "fchown", "fdatasync", "fork",
    "forkpty", "fpathconf", "fstatvfs", "getegid", "geteuid", "getgid", "getgroups", "getloadavg",
    "getpgid", "getpgrp", "getpriority", "getsid", "getuid", "initgroups", "killpg", "lchown",
    "lockf", "major", "makedev", "minor", "mkfifo", "mknod", "nice", "openpty", "pathconf",
    "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "sendfile", "setegid", "seteuid",
    "setgid", "setgroups", "setpgid", "setpriority", "setsid", "setuid", "statvfs", "sync",
    "sysconf", "uname", "wait3", "wait4", "waitid", "O_CLOEXEC", "O_DIRECTORY", "O_DSYNC",
    "O_NDELAY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "SEEK_DATA", "SEEK_HOLE",
)  # fmt: skip
SIGNALS = (
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP",
    "SIGTSTP", "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask",
    "setitimer", "sigpending", "sigwait",
)  # fmt: skip


def edgepack_on(
    system: str, *commands: Sequence[str | Path], cache: Path | None = None
) -> list[Outcome]:
    """Run commands of the host one after the other as on a system."""
    lines = [json.dumps([str(word) for word in words]) for words in commands]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.other_system", system],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env=environment(cache),
    )
    assert done.returncode == 0, done.stderr
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def become(system: str) -> None:
    """Take away what a system lacks, and import the modules of the host without it."""
    import packager

    walked = pkgutil.walk_packages(packager.__path__, "packager.")
    modules = [module.name for module in walked if module.name != "packager.__main__"]
    for name in modules:
        importlib.import_module(name)
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("packager", "device_runtime"):
            del sys.modules[name]
    sys.platform, machine = SYSTEMS[system]
    _replace(platform, system=lambda: system, machine=lambda: machine)
    _take(os, LINUX_ONLY)
    _hide(Path("/proc"), Path("/sys"))
    if system == "Windows":
        _windows()
    for name in modules:
        importlib.import_module(name)


def _take(module: Any, names: Sequence[str]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def _replace(module: Any, **new: Any) -> None:
    for name, value in new.items():
        setattr(module, name, value)


def _hide(*roots: Path) -> None:
    """Let Linux's own folders be missing."""
    open_, exists = Path.open, Path.exists

    def hidden(path: Path) -> bool:
        return any(path.is_relative_to(root) for root in roots)

    def open_other(path: Path, *arguments: Any, **options: Any) -> Any:
        if hidden(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return open_(path, *arguments, **options)

    _replace(Path, open=open_other, exists=lambda path: not hidden(path) and exists(path))


def _windows() -> None:
    """Let functions, signals and files be as on Windows."""
    open_, chmod, rename, statvfs = os.open, os.chmod, os.rename, os.statvfs

    def open_file(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            raise NotImplementedError("dir_fd unavailable on this platform")
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_(path, flags, mode)

    def no_link(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EINVAL, "A required privilege is not held by the client")

    def read_only(path: Any, mode: int, **_: object) -> None:
        chmod(path, 0o666 if mode & stat.S_IWUSR else 0o444)

    def rename_to_new(old: Any, new: Any) -> None:
        if Path(new).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        rename(old, new)

    def no_library(name: object, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"there is no library {name}")

    def disk_usage(path: Any) -> Any:
        disk = statvfs(path)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        return shutil._ntuple_diskusage(total, total - free, free)

    _replace(shutil, disk_usage=disk_usage, _use_fd_functions=False)
    _replace(os, open=open_file, symlink=no_link, chmod=read_only, rename=rename_to_new)
    _replace(os, supports_dir_fd=set())
    _replace(ctypes, CDLL=no_library)
    _take(os, POSIX_ONLY)
    _take(signal, SIGNALS)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]


def _run(words: list[str]) -> dict[str, Any]:
    from packager.cli import main as edgepack

    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = edgepack(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def main(system: str) -> None:
    """Become the system, and run the commands."""
    commands = [json.loads(line) for line in sys.stdin]
    become(system)
    for words in commands:
        print(json.dumps(_run(words)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

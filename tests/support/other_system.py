"""Run `edgepack` as on another system: with what that system lacks taken away.

    python -m tests.support.other_system Windows|Darwin < COMMANDS

Each line of the input is a command, a JSON array of its words; each line of the output its outcome.
All modules of the host are imported first. What edgepack's own modules do not see: modules and
functions that Python's documentation marks as not available there, the folders /proc and /sys, and
what Windows' folders and links cannot do. The standard library and the packages of others, which
have code of their own for each system, stay as they are; so do jobs, which are other processes.
"""

import builtins
import contextlib
import errno
import importlib
import io
import json
import os
import pkgutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
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


def edgepack_on(system: str, *commands: Sequence[Any], cache: Path | None = None) -> list[Outcome]:
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


class Other(ModuleType):
    """A module as another system has it."""

    def __init__(self, name: str, lacking: Iterable[str] = (), **other: Any) -> None:
        super().__init__(name)
        self._module = importlib.import_module(name)
        self._lacking = frozenset(lacking)
        vars(self).update(other)

    def __getattr__(self, name: str) -> Any:
        if name in self._lacking:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)


def become(system: str) -> None:
    """Let edgepack's modules see what a system has, and import those of the host."""
    name, machine = SYSTEMS[system]
    modules = {
        "sys": Other("sys", platform=name),
        "platform": Other("platform", system=lambda: system, machine=lambda: machine),
        "os": Other("os", LINUX_ONLY),
    }
    _hide(Path("/proc"), Path("/sys"))
    if system == "Windows":
        modules |= {
            "os": Other("os", LINUX_ONLY + POSIX_ONLY, open=_open, supports_dir_fd=set()),
            "signal": Other("signal", SIGNALS),
            "ctypes": Other("ctypes", CDLL=_no_library),
        }
        _windows_paths()
    import_ = builtins.__import__

    def see(name: str, globals: Any = None, *rest: Any, **options: Any) -> Any:
        importer = (globals or {}).get("__name__", "")
        if importer.partition(".")[0] in ("packager", "device_runtime"):
            top = name.partition(".")[0]
            if system == "Windows" and top in MODULES:
                raise ModuleNotFoundError(f"No module named {top!r}")
            if top in modules:
                return modules[top]
        return import_(name, globals, *rest, **options)

    builtins.__import__ = see
    import packager

    for module in pkgutil.walk_packages(packager.__path__, "packager."):
        if module.name != "packager.__main__":
            importlib.import_module(module.name)


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


def _replace(target: Any, **new: Any) -> None:
    for name, value in new.items():
        setattr(target, name, value)


def _open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """Open a file as on Windows, which opens no folders."""
    if dir_fd is not None:
        raise NotImplementedError("dir_fd unavailable on this platform")
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return os.open(path, flags, mode)


def _windows_paths() -> None:
    """Let paths be as on Windows for a user who may not make links."""
    chmod, rename = Path.chmod, Path.rename

    def no_link(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EINVAL, "A required privilege is not held by the client")

    def read_only(path: Path, mode: int) -> None:
        chmod(path, 0o666 if mode & stat.S_IWUSR else 0o444)

    def rename_to_new(path: Path, new: Path) -> Path:
        if new.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        return rename(path, new)

    _replace(Path, symlink_to=no_link, chmod=read_only, rename=rename_to_new)


def _no_library(name: object, *_: object, **__: object) -> NoReturn:
    raise TypeError(f"there is no library {name}")


def _run(words: list[str]) -> dict[str, Any]:
    from packager.cli import main as edgepack

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = edgepack(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
    printed = [file.buffer.getvalue().decode() for file in (out, err)]
    return {"status": status, "out": printed[0], "err": printed[1]}


def main(system: str) -> None:
    """Become the system, and run the commands."""
    commands = [json.loads(line) for line in sys.stdin]
    become(system)
    for words in commands:
        print(json.dumps(_run(words)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A forked child whose calls that change a disk are counted, and one of which is made to fail.

The child is traced with ptrace(2); a seccomp(2) filter stops it at these calls alone, so that a run
costs little more than without. C code is covered, as any. Linux on x86-64 only.
"""

import ctypes
import errno
import io
import os
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

# Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
CHANGES = {
    **{1: "write", 18: "pwrite64", 20: "writev", 296: "pwritev", 328: "pwritev2"},
    **{40: "sendfile", 326: "copy_file_range", 275: "splice"},
    **{74: "fsync", 75: "fdatasync", 162: "sync", 306: "syncfs", 277: "sync_file_range"},
    **{76: "truncate", 77: "ftruncate", 285: "fallocate"},
    **{82: "rename", 264: "renameat", 316: "renameat2", 86: "link", 265: "linkat"},
    **{88: "symlink", 266: "symlinkat", 87: "unlink", 263: "unlinkat", 84: "rmdir"},
    **{83: "mkdir", 258: "mkdirat", 133: "mknod", 259: "mknodat", 85: "creat"},
    **{90: "chmod", 91: "fchmod", 268: "fchmodat", 452: "fchmodat2"},
    **{92: "chown", 93: "fchown", 94: "lchown", 260: "fchownat"},
    **{280: "utimensat", 188: "setxattr", 189: "lsetxattr", 190: "fsetxattr"},
}
OPENS = {2: ("open", 1), 257: ("openat", 2)}
"""Calls that change a disk with some flags, and the index of the argument with the flags."""
_MAKING = os.O_CREAT | os.O_TRUNC | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY

# linux/ptrace.h, linux/seccomp.h, linux/filter.h.
_TRACEME, _CONT, _GETREGS, _SETREGS, _SETOPTIONS = 0, 7, 12, 13, 0x4200
_TRACESECCOMP, _EXITKILL = 1 << 7, 1 << 20
_SECCOMP_STOP = signal.SIGTRAP | 7 << 8
_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000
_LOAD, _EQUALS, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
# Positions in user_regs_struct, in words of 8 bytes.
_RAX, _RDI, _ORIG_RAX, _WORDS = 10, 14, 15, 27

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Run:
    """A run of an operation.

    Attributes:
        calls: the calls that change a disk, in order, the one that was made to fail included.
        status: what the operation returned; None if it was killed.
        output: what it printed.
    """

    calls: tuple[str, ...]
    status: int | None
    output: str


def run(
    operation: Callable[[], int], at: int | None = None, error: int = 0, *, lasts: bool = False
) -> Run:
    """Run an operation in a forked child.

    Args:
        operation: what to run; its modules should be imported already.
        at: number of the call, from 0, before which the child is killed, or that fails; None for
            none.
        error: errno with which that call fails without any effect; 0 to kill.
        lasts: whether all later calls fail, too.
    """
    output = os.memfd_create("output")
    child = os.fork()
    if child == 0:
        _be_traced(operation, output)
    try:
        calls, status = _trace(child, at, error, lasts)
        os.lseek(output, 0, os.SEEK_SET)
        return Run(tuple(calls), status, os.read(output, 1 << 20).decode())
    finally:
        os.close(output)


def _be_traced(operation: Callable[[], int], output: int) -> None:
    status = 250
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), write_through=True)
        _ptrace(_TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _filter()
        status = operation()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _filter() -> None:
    """Let the tracer see the calls that change a disk, and no others."""
    code = [struct.pack("=HBBI", _LOAD, 0, 0, 0)]  # the number of the call
    for number in CHANGES:
        code += _answer(struct.pack("=HBBI", _EQUALS, 0, 1, number))
    for number, (_, argument) in OPENS.items():
        code.append(struct.pack("=HBBI", _EQUALS, 0, 4, number))
        code.append(struct.pack("=HBBI", _LOAD, 0, 0, 16 + 8 * argument))
        code += _answer(struct.pack("=HBBI", _ANY_BIT, 0, 1, _MAKING))
        code.append(struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW))
    code.append(struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(b"".join(code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    assert _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert _libc.prctl(_SET_SECCOMP, _FILTER, header, 0, 0) == 0, os.strerror(ctypes.get_errno())


def _answer(condition: bytes) -> list[bytes]:
    return [condition, struct.pack("=HBBI", _RETURN, 0, 0, _TRACE)]


def _trace(child: int, at: int | None, error: int, lasts: bool) -> tuple[list[str], int | None]:
    calls: list[str] = []
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, _TRACESECCOMP | _EXITKILL)
    passed = 0
    while True:
        _ptrace(_CONT, child, passed)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return calls, os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        passed = 0
        if status >> 8 != _SECCOMP_STOP:
            passed = os.WSTOPSIG(status)
            continue
        registers = (ctypes.c_ulonglong * _WORDS)()
        _ptrace(_GETREGS, child, ctypes.addressof(registers))
        call = registers[_ORIG_RAX]
        name = CHANGES.get(call) or OPENS[call][0]
        if name in ("write", "writev") and registers[_RDI] in (1, 2):
            continue
        calls.append(name)
        number = len(calls) - 1
        if error and at is not None and (number == at or (number > at and lasts)):
            registers[_ORIG_RAX] = ctypes.c_ulonglong(-1).value
            registers[_RAX] = ctypes.c_ulonglong(-error).value
            _ptrace(_SETREGS, child, ctypes.addressof(registers))
        elif number == at:
            os.kill(child, signal.SIGKILL)


def _ptrace(request: int, child: int, data: int) -> None:
    if _libc.ptrace(request, child, None, data) == -1:
        number = ctypes.get_errno()
        if number != errno.ESRCH:  # killed meanwhile
            raise OSError(number, os.strerror(number))

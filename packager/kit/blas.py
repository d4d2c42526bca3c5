"""A library in place of NumPy's OpenBLAS, which is 28 MB and which the device does not use.

NumPy links to OpenBLAS for products of matrices and for linear algebra. The device multiplies no
matrices in NumPy: that is ONNX Runtime's work. NumPy itself takes the inner product of two vectors
when it is imported, so the two functions for that are here. All others end the process: a program
that calls one must not compute something else instead.
"""

import re
from pathlib import Path

from packager.errors import KitError

LIBRARY = "libscipy_openblas*.so"
"""Pattern of the library's name in `numpy.libs`; the letters before `.so` differ by wheel."""
NEEDED_BY_IT = ("libgfortran-*", "libquadmath-*")
"""Patterns of what else is in `numpy.libs`, for OpenBLAS alone."""

_DOT = {
    # System V ABI: n, x, stride of x, y, stride of y.
    "x86_64": """
{name}:
    pxor %xmm0, %xmm0
    test %rdi, %rdi
    jle 2f
1:  mov{s} (%rsi), %xmm1
    mul{s} (%rcx), %xmm1
    add{s} %xmm1, %xmm0
    lea (%rsi,%rdx,{size}), %rsi
    lea (%rcx,%r8,{size}), %rcx
    dec %rdi
    jnz 1b
2:  ret
""",
    # AAPCS64: the same, in x0 to x4.
    "aarch64": """
{name}:
    fmov {r}0, {zero}
    cmp x0, #0
    b.le 2f
1:  ldr {r}1, [x1]
    ldr {r}2, [x3]
    fmadd {r}0, {r}1, {r}2, {r}0
    add x1, x1, x2, lsl #{shift}
    add x3, x3, x4, lsl #{shift}
    subs x0, x0, #1
    b.ne 1b
2:  ret
""",
}
_TYPES = {
    "sdot": {"s": "ss", "size": "4", "r": "s", "zero": "wzr", "shift": "2"},
    "ddot": {"s": "sd", "size": "8", "r": "d", "zero": "xzr", "shift": "3"},
}
_ABORT = {"x86_64": "jmp abort@PLT", "aarch64": "b abort"}


def source(symbols: str, machine: str) -> str:
    """Write the library's source for the assembler.

    Args:
        symbols: symbols that NumPy's modules look for, as `nm -D --undefined-only` prints them.
        machine: architecture as `uname -m` reports it.

    Raises:
        KitError: NumPy looks for other functions than these, or the architecture is unknown.
    """
    names = sorted(set(re.findall(r"\bU (scipy_\w+)$", symbols, re.MULTILINE)))
    dots = {kind: f"scipy_cblas_{kind}64_" for kind in _TYPES}
    if not set(dots.values()) <= set(names) or machine not in _DOT:
        raise KitError(f"NumPy's wheel for {machine} has another OpenBLAS than edgepack knows")
    others = [name for name in names if name not in dots.values()]
    lines = [".text"]
    for name in names:
        lines += [f".globl {name}", f".type {name}, %function"]
    lines += [_DOT[machine].format(name=dots[kind], **_TYPES[kind]) for kind in _TYPES]
    lines += [f"{name}:" for name in others]
    lines += [f"    {_ABORT[machine]}", '.section .note.GNU-stack,"",%progbits', ""]
    return "\n".join(lines)


def find(internal: Path) -> Path:
    """Find OpenBLAS in a frozen program.

    Raises:
        KitError: it is not there.
    """
    libraries = list((internal / "numpy.libs").glob(LIBRARY))
    if len(libraries) != 1:
        raise KitError("NumPy's wheel does not have one OpenBLAS")
    return libraries[0]

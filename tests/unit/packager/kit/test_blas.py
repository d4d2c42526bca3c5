"""The library in place of NumPy's OpenBLAS."""

import ast
import ctypes
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import device_runtime
from packager.errors import KitError
from packager.kit import blas

NAMES = ("scipy_cblas_sdot64_", "scipy_cblas_ddot64_", "scipy_cblas_sgemm64_", "scipy_dgesv_64_")
SYMBOLS = "".join(f"                 U {name}\n" for name in (*NAMES, "PyArg_ParseTuple"))
PRODUCTS = {"dot", "matmul", "inner", "vdot", "tensordot", "linalg", "polyfit", "cov", "corrcoef"}
"""Functions of NumPy that call OpenBLAS."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blas")
    (folder / "blas.s").write_text(blas.source(SYMBOLS, platform.machine()))
    for command in (["as", "-o", "blas.o", "blas.s"], ["ld", "-shared", "-o", "blas.so", "blas.o"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder / "blas.so"


@pytest.mark.parametrize(("letter", "number"), [("s", ctypes.c_float), ("d", ctypes.c_double)])
@pytest.mark.parametrize(("count", "stride"), [(0, 1), (1, 1), (7, 1), (5, 3)])
def test_inner_product_is_right(
    library: Path, letter: str, number: Any, count: int, stride: int
) -> None:
    function = ctypes.CDLL(str(library))[f"scipy_cblas_{letter}dot64_"]
    function.restype = number
    first, second = ((number * 40)(*range(start, start + 40)) for start in (1, 3))
    steps = ctypes.c_int64(stride)
    expected = sum(first[n * stride] * second[n * stride] for n in range(count))
    assert function(ctypes.c_int64(count), first, steps, second, steps) == expected


def test_any_other_function_ends_the_process(library: Path) -> None:
    code = f"import ctypes; ctypes.CDLL({str(library)!r}).scipy_cblas_sgemm64_()"
    process = subprocess.run([sys.executable, "-c", code], check=False)
    assert process.returncode == -6  # SIGABRT


def test_unknown_wheel_or_architecture_is_refused() -> None:
    with pytest.raises(KitError, match="another OpenBLAS"):
        blas.source(SYMBOLS.replace("64_", "_"), "x86_64")
    with pytest.raises(KitError, match="riscv64"):
        blas.source(SYMBOLS, "riscv64")


def test_both_architectures_have_all_functions() -> None:
    for machine in ("x86_64", "aarch64"):
        source = blas.source(SYMBOLS, machine)
        assert all(f"\n{name}:" in source and f".globl {name}" in source for name in NAMES)


def test_device_multiplies_no_matrices_in_numpy() -> None:
    """Else the kit, which has no products of matrices, would end at that line."""
    calls = []
    for path in Path(device_runtime.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.BinOp(op=ast.MatMult()) | ast.AugAssign(op=ast.MatMult()):
                    calls.append(f"{path.name}:{node.lineno}: @")
                case ast.Attribute(value=ast.Name(id="np"), attr=name) if name in PRODUCTS:
                    calls.append(f"{path.name}:{node.lineno}: np.{name}")
                case ast.Attribute(attr="dot"):
                    calls.append(f"{path.name}:{node.lineno}: dot")
                case ast.Call(func=ast.Attribute(attr="einsum"), keywords=[*names]) if any(
                    keyword.arg == "optimize" for keyword in names
                ):
                    calls.append(f"{path.name}:{node.lineno}: einsum(optimize=...)")
                case _:
                    pass
    assert calls == []

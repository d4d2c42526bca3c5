"""The environment of an inference process."""

import os
import sys

import pytest

from device_runtime.worker.child import Child

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("tunables", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
async def test_a_process_gets_huge_pages_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tunables: str | None, expected: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if tunables is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    told = "import os, sys; sys.exit(os.environ['GLIBC_TUNABLES'] != sys.argv[1])"
    child = await Child.start([sys.executable, "-c", told, expected])
    assert [message async for message in child.messages()] == []
    error = await child.ended()
    assert "code 0" in str(error)
    assert os.environ.get("GLIBC_TUNABLES") == tunables

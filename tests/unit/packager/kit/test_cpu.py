"""What the libraries of a kit need of a processor."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from packager.errors import KitError
from packager.kit import cpu
from packager.kit.freeze import Environment
from packager.run import run


def environment(baseline: str) -> Environment:
    """An environment whose NumPy names these features."""

    def answer(argv: Sequence[str], variables: Mapping[str, str], what: str) -> str:
        assert variables["PYTHONPATH"] == "/wheels/lib/python3.11/site-packages"
        return baseline

    return Environment(python="python3", work="/work", wheels="/wheels", root=Path("/"), run=answer)


def test_features_have_the_names_of_cpuinfo() -> None:
    v2 = ("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3")
    assert cpu.features(environment("X86_V2\n"), "3.11") == v2
    assert cpu.features(environment("NEON NEON_FP16 NEON_VFPV4 ASIMD\n"), "3.11") == ("asimd",)


def test_feature_that_nobody_can_check_is_refused() -> None:
    with pytest.raises(KitError, match="cannot check: SVE, X86_V9") as caught:
        cpu.features(environment("X86_V9 X86_V2 SVE\n"), "3.11")
    assert "Install edgepack again" in caught.value.hint


def test_numpy_of_this_machine_tells_its_features() -> None:
    def here(argv: Sequence[str], variables: Mapping[str, str], what: str) -> str:
        return run(argv, what=what)

    asked = Environment(python=sys.executable, work="", wheels="", root=Path("/"), run=here)
    assert cpu.features(asked, "3.11")

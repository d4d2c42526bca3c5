"""Requirements of a kit for the processor, as its libraries tell them.

Of the libraries in a kit only NumPy is compiled for more than the first processors of an
architecture, and it knows for what. ONNX Runtime chooses its kernels when it runs, and nothing in
its file tells a need; a test runs the kits on processors with exactly these features.
"""

from packager.errors import KitError
from packager.kit.freeze import Environment

# Features as /proc/cpuinfo names them, by NumPy's names. X86_V2 is the level x86-64-v2 of the
# System V ABI; on arm64, NEON and its additions are parts of ASIMD.
_FEATURES = {
    "X86_V2": ("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"),
    "ASIMD": ("asimd",),
    "NEON": (),
    "NEON_FP16": (),
    "NEON_VFPV4": (),
}

_BASELINE = "from numpy._core._multiarray_umath import __cpu_baseline__ as names; print(*names)"


def features(environment: Environment, python: str) -> tuple[str, ...]:
    """Ask the NumPy of a kit for the features that it was compiled for.

    Args:
        environment: environment with the kit's packages.
        python: minor version of its Python.

    Returns:
        The features, as /proc/cpuinfo names them.

    Raises:
        CommandError: NumPy cannot be imported there.
        KitError: NumPy names a feature that is not known here.
    """
    baseline = environment.run(
        [environment.python, "-c", _BASELINE],
        environment.variables(python),
        "Querying NumPy's processor features",
    ).split()
    unknown = sorted(set(baseline) - set(_FEATURES))
    if unknown:
        raise KitError(
            f"NumPy needs processor features that edgepack cannot check: {', '.join(unknown)}",
            hint="Install edgepack again: its lock has a version of NumPy that it knows.",
        )
    return tuple(sorted(feature for name in baseline for feature in _FEATURES[name]))

"""A GPU with fp16 arithmetic, of software: Mesa's driver in a newer Debian than this one."""

import subprocess
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import RUNTIME_ENTRY
from device_runtime.bundle.reader import open_bundle
from tests.support.commands import edgepack_quickly

pytestmark = [pytest.mark.slow, pytest.mark.requires("root", "mmdebstrap")]

PACKAGES = ("base-files", "dash", "coreutils", "libc-bin", "libvulkan1", "mesa-vulkan-drivers")

# ONNX Runtime lists the GPUs that sysfs has.
WITHIN = """
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/sys"
card="$1/sys/class/drm/card0/device"
mkdir -p "$card"
printf 0x10de > "$card/vendor"
printf 0x2204 > "$card/device"
printf 0x030000 > "$card/class"
mount --bind /dev "$1/dev"
chroot "$@"
exit $?
"""


@pytest.fixture(scope="module")
def root(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian 13 with Mesa's Vulkan drivers, and the tiny model for any PC with a GPU."""
    folder = tmp_path_factory.mktemp("gpu-fp16")
    root = folder / "root"
    subprocess.run(
        [
            *("mmdebstrap", "--variant=extract", "--quiet", f"--include={','.join(PACKAGES)}"),
            *("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "trixie", root),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    bundle = folder / "gpu.epk"
    built = edgepack_quickly("build", "--profile", "x86_64-gpu", "--model", tiny_hf, "-o", bundle)
    assert built.status == 0, built.err
    (root / "release").mkdir()
    with open_bundle(bundle) as opened:
        opened.unpack(root / "release")
    return root


def generate(root: Path, processor: str) -> tuple[str, str]:
    """The answer to a prompt, and the log."""
    done = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", WITHIN),
            *("within", root, "/usr/bin/env", f"EDGEPACK_PROCESSOR={processor}"),
            *(f"/release/{RUNTIME_ENTRY}", "generate", "--raw", "--max-tokens", "16", "hello"),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_gpu_computes_in_half_precision_what_the_cpu_does(root: Path) -> None:
    """The driver needs a newer C++ library than the runtime has in it."""
    expected, _ = generate(root, "cpu")
    answer, log = generate(root, "gpu")
    assert "gpu_failed" not in log
    assert answer == expected

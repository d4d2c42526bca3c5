"""A small arm64 Debian in a folder, its programs run by qemu."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from packager import cache
from packager.kit import rootfs
from packager.kit.platforms import PLATFORMS
from tests.support.commands import Outcome, edgepack

ARCHIVE = "root.tar"
PROC = 'mount -t proc proc "$1/proc"'
PACKAGES = ("base-files", "dash", "coreutils", "libc-bin", "systemd")


def device(bundle: Path, root: Path) -> Path:
    """Unpack a minimal Debian (it has no Python) and flash a bundle into it; returns its root."""
    cross = PLATFORMS["linux-aarch64-cpu"].cross
    assert cross is not None
    rootfs.register_emulator(cross)
    root.mkdir()
    subprocess.run(["tar", "-x", "-f", _debian(cross.suite), "-C", root], check=True)
    flashed = edgepack("flash", bundle, root)
    assert flashed.status == 0, flashed.err
    return root


def _debian(suite: str) -> Path:
    """An archive of a minimal Debian, made once for all tests."""
    sources = rootfs.debian_sources(suite)

    def make(folder: Path) -> None:
        subprocess.run(
            [
                *("mmdebstrap", "--variant=extract", "--architectures=arm64", "--quiet"),
                "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                *(f"--include={','.join(PACKAGES)}", suite, str(folder / ARCHIVE), *sources),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
        )

    inputs = {"suite": suite, "packages": PACKAGES, "sources": sources}
    return cache.stage("device-root", inputs, make) / ARCHIVE


@contextmanager
def inference_process(root: Path, cpu: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run the inference process of a device; yield the pipes to and from it."""
    command = _entered(
        root,
        [PROC],
        *("edgepack-runtime", "worker", "--parent", "1", "--release", "/var/lib/edgepack/current"),
        *("--threads", "2", "--kv-cache-mib", "0", "--cpus", "", "--processor", "cpu"),
    )
    with subprocess.Popen(
        command, env=_environment(cpu), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        finally:
            process.kill()


def on_device(root: Path, *argv: str, cpu: str = "max", features: str = "") -> Outcome:
    """Run a program of the device; its mounts vanish with it.

    Args:
        root: root of the device.
        argv: the program and its arguments.
        cpu: name of the processor for qemu.
        features: what /proc/cpuinfo tells of it; that of this machine if empty.
    """
    cpuinfo = root / "tmp/cpuinfo"
    cpuinfo.write_text(f"Features\t: {features}\n")
    mounts = [PROC]
    if features:
        mounts.append('mount --bind "$1/tmp/cpuinfo" "$1/proc/cpuinfo"')
    done = subprocess.run(
        _entered(root, mounts, *argv),
        env=_environment(cpu),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def _environment(cpu: str) -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin", "QEMU_CPU": cpu}


def _entered(root: Path, mounts: list[str], *argv: str) -> list[str]:
    """Return the command that runs a program of the device, the only child of process 1."""
    return [
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"),
        # The shell stays: a first process that crashes would not end (see kit/rootfs.py).
        f'{" && ".join(mounts)} && chroot "$@"; exit $?',
        *("enter", str(root), *argv),
    ]

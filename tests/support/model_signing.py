"""The OpenSSF's own program for signatures of models, in an environment of its own.

It brings Sigstore's client and 38 packages, which nothing else here needs: too much for the
environment of the developers. So the first test that needs it installs it into the cache.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from packager import cache

# pyopenssl: 1.1.1 imports it and does not ask for it.
PACKAGES = ("model-signing==1.1.1", "pyopenssl==26.4.0")


def program() -> Path:
    """The Python that has `model_signing`; skips without a package index."""

    def make(folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        command = ["venv/bin/python", "-m", "pip", "install", "--quiet", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode != 0:
            raise OSError(done.stderr[-2000:])

    try:
        folder = cache.stage("tools", {"python": sys.version, "packages": PACKAGES}, make)
    except OSError as error:
        reason = f"model_signing cannot be installed: {error}"
        if os.environ.get("EDGEPACK_TESTS_REQUIRE") == "all":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return folder / "venv/bin/python"


def verify(model: Path, signature: Path, public_key: Path) -> subprocess.CompletedProcess[str]:
    """Run `model_signing verify key`."""
    return subprocess.run(
        [
            *(program(), "-m", "model_signing", "verify", "key", model),
            *("--signature", signature, "--public_key", public_key),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

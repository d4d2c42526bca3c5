"""A bundle built on macOS and Windows, as far as it can be shown here, is that of Linux."""

import json
import shutil
from pathlib import Path

from packager import kit
from tests.support.commands import edgepack
from tests.support.kits import stored
from tests.support.other_system import SYSTEMS, edgepack_on


def test_bundle_is_the_same_on_every_system(tiny_hf: Path, own_cache: Path, tmp_path: Path) -> None:
    kit.export(stored(own_cache), tmp_path / "kit.tar")

    def build(bundle: str) -> list[str | Path]:
        for stages in ("kit", "kit-imported", "packed"):
            shutil.rmtree(own_cache / stages, ignore_errors=True)
        options = ("--profile", "raspberry-pi", "--recipe", "int4-rtn", "--allow-quality-loss")
        given = ("--model", tiny_hf, "--kit", tmp_path / "kit.tar", "--no-sign")
        return ["build", *options, *given, "--json", "-o", tmp_path / bundle]

    for system in SYSTEMS:
        (built,) = edgepack_on(system, build(system), cache=own_cache)
        assert built.status == 0, built.err
        assert json.loads(built.out)["manifest"]["kit"]["machine"] == "aarch64"
    assert edgepack(*build("Linux"), cache=own_cache).status == 0
    contents = {(tmp_path / name).read_bytes() for name in (*SYSTEMS, "Linux")}
    assert len(contents) == 1

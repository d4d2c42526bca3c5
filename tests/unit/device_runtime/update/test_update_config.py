"""The device's own rules for updates, `/etc/edgepack/update.toml`."""

from pathlib import Path

import pytest

from device_runtime.errors import InstallError
from device_runtime.update import config
from device_runtime.update.config import UpdateConfig
from device_runtime.update.target import Target
from tests.support.targets import ELF_X86_64, make_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root", ELF_X86_64, allow_unsigned=False)


def rules(root: Path, text: str) -> None:
    (root / "etc/edgepack/update.toml").write_text(text)


def test_rules_of_the_device(root: Path) -> None:
    assert config.read(Target(root)) == UpdateConfig()
    rules(root, "allow_unsigned = true\nthreshold = 2\nkeep_releases = 5\nprobation_s = 30\n")
    assert config.read(Target(root)) == UpdateConfig(
        allow_unsigned=True, threshold=2, keep_releases=5, probation_s=30.0
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("threshold = 0\nkeep_releases = 1\ncolour = 3\n", ("threshold", "keep_rel", "'colour'")),
        ('allow_unsigned = "yes"\n', ("allow_unsigned: Expected `bool`",)),
        ("probation_s = nan\nstart_timeout_s = inf\n", ("probation_s", "start_timeout_s")),
        ("threshold = [\n", ("not TOML",)),
        ("[" * 100_000, ("cannot be read",)),
    ],
)
def test_rules_that_are_not_valid_are_all_listed(
    root: Path, text: str, says: tuple[str, ...]
) -> None:
    rules(root, text)
    with pytest.raises(InstallError) as caught:
        config.read(Target(root))
    for words in says:
        assert words in str(caught.value)

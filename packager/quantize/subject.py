"""Inputs that all recipes of a build have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packager.models.source import ModelSource
from packager.profile import DeviceProfile


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, a device, and text to measure on and calibrate with.

    Attributes:
        source: the source model.
        profile: profile of the device.
        output: path of the bundle.
        text: folder written by `texts.prepare`; None to skip measuring.
        calibration: function that returns the file of calibration windows, which can take minutes.
        trust_remote_code: run Python code that comes with the model.
    """

    source: ModelSource
    profile: DeviceProfile
    output: Path
    text: Path | None
    calibration: Callable[[], Path]
    trust_remote_code: bool

    @property
    def content(self) -> dict[Path, str]:
        """The digest of the source model by path, for cache keys."""
        return {self.source.path: self.source.digest}

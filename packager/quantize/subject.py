"""The model, the device and the text that all recipes of a build are tried on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packager.models.source import ModelSource
from packager.profile import DeviceProfile


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, a device, and the text.

    Attributes:
        source: the original model.
        profile: the device.
        text: prepared folder of `evaluation_text`; None measures nothing.
        calibration: gives the file of calibration windows, which may take minutes to write.
        trust_remote_code: run Python code that comes with the model.
    """

    source: ModelSource
    profile: DeviceProfile
    text: Path | None
    calibration: Callable[[], Path]
    trust_remote_code: bool

    @property
    def content(self) -> dict[Path, str]:
        """The digest of the original model by its place, for the keys of the cache."""
        return {self.source.path: self.source.digest}

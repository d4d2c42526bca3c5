"""A build: its request and its result."""

from dataclasses import dataclass
from pathlib import Path

from device_runtime.bundle.manifest import Manifest
from packager.profile import DeviceProfile


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What the user asked for.

    Attributes:
        profile: the device.
        model: catalog name, hub id or path.
        output: the bundle's path; None for NAME-VERSION-PROFILE.epk in the working folder.
        model_only: leave the runtime out.
        recipe: name of a recipe, or `auto`; None for the profile's.
        eval_text: text file to measure on; None for text that the model itself writes.
        calibration_text: text file to calibrate with; None likewise.
        allow_quality_loss: take the best recipe if none keeps the profile's limits.
        version: version of the bundle, for people.
        sequence: version of the bundle, for machines: grows with each release.
        adapter: folder of a LoRA adapter to merge into the model; None for the model as it is.
        trust_remote_code: run Python code that comes with the model.
    """

    profile: DeviceProfile
    model: str
    output: Path | None = None
    model_only: bool = False
    recipe: str | None = None
    eval_text: Path | None = None
    calibration_text: Path | None = None
    allow_quality_loss: bool = False
    version: str = "1.0.0"
    sequence: int = 1
    adapter: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A finished bundle: where it is, its digest and its manifest."""

    path: Path
    digest: str
    manifest: Manifest

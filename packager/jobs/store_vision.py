"""Store a vision graph with smaller weights. A job because of its memory use."""

from pathlib import Path

from device_runtime.bundle.vision import VisionWeights
from packager.jobs.job import Job, Work
from packager.vision import smaller


class StoreVision(Job[None], frozen=True, kw_only=True):
    """Write a vision folder again, with other weights.

    Attributes:
        source: folder with the vision graph in fp32.
        weights: type of the weights.
    """

    source: Path
    weights: VisionWeights

    def run(self, work: Work) -> None:
        """Write the files."""
        smaller.store(self.source, work.target, self.weights)

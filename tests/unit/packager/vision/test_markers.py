"""Types of models that see, on both sides."""

from device_runtime.inference.vision_families import FAMILIES
from packager.vision.markers import MARKERS


def test_the_host_packages_what_a_device_can_ask() -> None:
    assert set(MARKERS) == FAMILIES

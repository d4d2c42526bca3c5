"""A GPU of software: SwiftShader, the Vulkan driver in Chromium's package.

ONNX Runtime lists the GPUs in /sys/class/drm: the programs run in a mount namespace in which there
is one. They need root, as its tests say.
"""

from pathlib import Path

FOLDER = Path("/usr/lib/chromium")
"""The driver and the Vulkan loader."""
PACKAGES = ("root", "chromium")
NAME = "SwiftShader"

_SCRIPT = """
mount -t tmpfs tmpfs /sys/class
mkdir -p /sys/class/drm/card0/device
printf 0x10de > /sys/class/drm/card0/device/$LISTED
printf 0x2204 > /sys/class/drm/card0/device/device
printf 0x030000 > /sys/class/drm/card0/device/class
exec "$@"
"""


def within(
    processor: str = "gpu", *, loader: bool = True, driver: bool = True, listed: bool = True
) -> list[str]:
    """The beginning of a command that runs another where there is this GPU.

    Args:
        processor: what the configuration asks for.
        loader: the Vulkan loader is there.
        driver: the driver is one.
        listed: sysfs lists the GPU as one of PCI.
    """
    file = FOLDER / "vk_swiftshader_icd.json" if driver else Path("/nowhere.json")
    return [
        *("unshare", "--mount", "env", f"VK_DRIVER_FILES={file}", f"VK_ICD_FILENAMES={file}"),
        *(["LD_LIBRARY_PATH=" + str(FOLDER)] if loader else []),
        f"EDGEPACK_PROCESSOR={processor}",
        f"LISTED={'vendor' if listed else 'nothing'}",
        *("sh", "-c", _SCRIPT, "gpu"),
    ]

"""Measurements of the machine, from the files of the kernel that any user may read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from device_runtime.memory import limits, parse_meminfo

SYS = Path("/sys")
PROC = Path("/proc")

_UNDER_VOLTAGE_NOW, _CAPPED_NOW, _THROTTLED_NOW, _SOFT_LIMIT_NOW = (1 << bit for bit in range(4))
"""Bits of the Raspberry Pi's firmware: https://www.raspberrypi.com/documentation/computers/os.html
(vcgencmd get_throttled)."""

Bytes = Annotated[int, Meta(ge=0)]


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of the machine; null where it has no sensor, or it cannot be read.

    Attributes:
        memory_available_bytes: memory that programs can still get.
        disk_free_bytes: free disk space where the release is.
        temperature_c: temperature of the hottest sensor, degrees Celsius.
        throttled: whether the processor is slowed down because it is hot or lacks power.
        under_voltage: whether the power supply is too weak.
    """

    memory_available_bytes: Bytes | None
    disk_free_bytes: Bytes | None
    temperature_c: float | None
    throttled: bool | None
    under_voltage: bool | None


def measure(release: Path, sys: Path = SYS, proc: Path = PROC) -> Board:
    """Measure the machine.

    Args:
        release: folder of the release that serves.
        sys: the kernel's devices (man 5 sysfs).
        proc: the kernel's state (man 5 proc).
    """
    firmware = _firmware(sys)
    return Board(
        memory_available_bytes=_memory_available(sys, proc),
        disk_free_bytes=_disk_free(release),
        temperature_c=temperature_c(sys / "class/thermal"),
        throttled=_throttled(sys, firmware),
        under_voltage=_under_voltage(sys, firmware),
    )


def temperature_c(thermal: Path) -> float | None:
    """Return the temperature of the hottest thermal zone, degrees Celsius; None without one."""
    degrees = [number / 1000 for number in _numbers(thermal.glob("thermal_zone*/temp"))]
    # A sensor that is switched off reports absurd values.
    return max((value for value in degrees if -50 < value < 200), default=None)


def _memory_available(sys: Path, proc: Path) -> int | None:
    """Return the free memory, within the limits of the control groups around this process."""
    try:
        free = parse_meminfo((proc / "meminfo").read_text())[1]
        groups = limits(proc / "self/cgroup", sys / "fs/cgroup")
        return max(0, min([free, *(limit - used for limit, used in groups)]))
    except (OSError, ValueError, KeyError):
        return None


def _disk_free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _firmware(sys: Path) -> int | None:
    """Return the bits of the Raspberry Pi's firmware."""
    files = sys.glob("devices/platform/soc*/soc*:firmware/get_throttled")
    return next(_numbers(files, base=16), None)


def _throttled(sys: Path, firmware: int | None) -> bool | None:
    if firmware is not None:
        return bool(firmware & (_CAPPED_NOW | _THROTTLED_NOW | _SOFT_LIMIT_NOW))
    states = []
    for device in sys.glob("class/thermal/cooling_device*"):
        # What a driver does to the processor's frequency, as opposed to a fan.
        if text(device / "type").startswith(("cpufreq", "thermal-cpufreq", "Processor")):
            states += list(_numbers([device / "cur_state"]))
    return any(states) if states else None


def _under_voltage(sys: Path, firmware: int | None) -> bool | None:
    if firmware is not None:
        return bool(firmware & _UNDER_VOLTAGE_NOW)
    alarms = [
        device / "in0_lcrit_alarm"
        for device in sys.glob("class/hwmon/hwmon*")
        if text(device / "name") == "rpi_volt"
    ]
    return next((bool(alarm) for alarm in _numbers(alarms)), None)


def _numbers(files: Iterator[Path] | list[Path], base: int = 10) -> Iterator[int]:
    """Read the number in each file; files without one are skipped."""
    for file in files:
        if (value := number(file, base)) is not None:
            yield value


def number(file: Path, base: int = 10) -> int | None:
    """Read the number in a file; None if there is none, or it cannot be read."""
    try:
        return int(file.read_text(), base)
    except (OSError, ValueError):
        return None


def text(file: Path) -> str:
    """Read a file's text, without the space around it; empty if it cannot be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""

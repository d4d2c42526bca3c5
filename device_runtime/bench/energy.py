"""Energy that a board has used, from its sensors."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from device_runtime.status.board import SYS, number, text

SAMPLE_S = 0.05
"""Time between two readings of a sensor of power, seconds."""
WHOLE = ("VDD_IN", "POM_5V_IN")
"""Labels of the channel that has the whole board, of NVIDIA's Jetsons; its others are parts."""


class Meter:
    """A counter of energy, while it is entered.

    Args:
        name: name of the sensor; empty without one.
        read: reads it: joules so far, or watts now; None if it cannot be read.
        power: whether it is a sensor of power, which is read again and again and summed up.
    """

    def __init__(self, name: str, read: Callable[[], float | None], *, power: bool = False) -> None:
        self.name = name
        self._read = read
        self._power = power
        self._joules = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Meter":
        if self._power:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._power:
            self._thread.join()

    def joules(self) -> float | None:
        """Return the energy so far, joules; None without a sensor."""
        return self._joules if self._power else self._read()

    def _sample(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(SAMPLE_S):
            watts, now = self._read(), time.monotonic()
            self._joules += (watts or 0.0) * (now - before)
            before = now


def meter(sys: Path = SYS) -> Meter:
    """Return the meter of this board: the processor's own, else sensors of power.

    Args:
        sys: the kernel's devices.
    """
    domains = _domains(sys / "class/powercap")
    if domains:
        return Meter("RAPL: " + " + ".join(domain.name for domain in domains), _counters(domains))
    channels = _channels(sys / "class/hwmon")
    if channels:
        names = " + ".join(channel.name for channel in channels)
        return Meter(names, lambda: _watts(channels), power=True)
    return Meter("", lambda: None)


class _Domain(NamedTuple):
    """A counter of energy of the processor (Documentation/power/powercap in Linux)."""

    name: str
    file: Path
    range: int


def _domains(powercap: Path) -> list[_Domain]:
    """List the packages, and the memory beside them; other domains are parts of these."""
    domains = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = text(folder / "name")
        used = number(folder / "energy_uj")
        if used is not None and name.startswith(("package", "dram")):
            most = number(folder / "max_energy_range_uj") or 0
            domains.append(_Domain(name, folder / "energy_uj", most))
    return domains


def _counters(domains: list[_Domain]) -> Callable[[], float | None]:
    last = {domain.file: number(domain.file) or 0 for domain in domains}
    total = 0

    def read() -> float | None:
        nonlocal total
        for domain in domains:
            used = number(domain.file)
            if used is None:
                return None
            step = used - last[domain.file]
            total += step if step >= 0 else step + domain.range
            last[domain.file] = used
        return total / 1e6

    return read


class _Channel(NamedTuple):
    """A channel of a sensor: the files of microwatts, or of millivolts and milliamperes."""

    name: str
    files: tuple[Path, ...]


def _channels(hwmon: Path) -> list[_Channel]:
    """List the channels of the sensors on the board's supplies (Documentation/hwmon in Linux)."""
    channels = []
    for folder in sorted(hwmon.glob("hwmon*")):
        chip = text(folder / "name")
        if not chip.startswith(("ina", "power_meter")):
            continue
        for file in sorted(folder.glob("power*_input")):
            channels.append(_Channel(chip, (file,)))
        if not channels or channels[-1].name != chip:
            for current in sorted(folder.glob("curr*_input")):
                place = current.name.removeprefix("curr").removesuffix("_input")
                label = text(folder / f"in{place}_label") or chip
                channels.append(_Channel(label, (folder / f"in{place}_input", current)))
    whole = [channel for channel in channels if channel.name in WHOLE]
    return [channel for channel in whole or channels if _watts([channel]) is not None]


def _watts(channels: list[_Channel]) -> float | None:
    total = 0.0
    for channel in channels:
        power = 1e-6
        for file in channel.files:
            value = number(file)
            if value is None:
                return None
            power *= value
        total += power
    return total

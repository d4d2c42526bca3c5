"""A machine whose heat and free memory a test sets, for the programs that run within its mounts."""

import re
from pathlib import Path

_MOUNTS = (
    'mount --bind "$1" /sys/class/thermal; mount --bind "$2" /proc/meminfo; shift 2; exec "$@"'
)


class Machine:
    """The processor is cool at first, and as much memory is free as there is.

    Args:
        folder: folder for the files that stand in for those of the kernel.

    Attributes:
        within: what runs a program on this machine (unshare(1); needs root).
    """

    def __init__(self, folder: Path) -> None:
        thermal, self._meminfo = folder / "thermal", folder / "meminfo"
        self._temperature = thermal / "thermal_zone0" / "temp"
        self._state = thermal / "cooling_device0" / "cur_state"
        for file in (self._temperature, self._state):
            file.parent.mkdir(parents=True)
        (self._state.parent / "type").write_text("Processor\n")
        self.heat(50, throttled=False)
        self._real = Path("/proc/meminfo").read_text()
        self._meminfo.write_text(self._real)
        shell = ["sh", "-ec", _MOUNTS, "sh", str(thermal), str(self._meminfo)]
        self.within = ["unshare", "--mount", "--propagation", "private", *shell]

    def heat(self, celsius: int, *, throttled: bool) -> None:
        """Set the temperature, and whether the processor is slowed down for it."""
        for file, value in ((self._temperature, celsius * 1000), (self._state, int(throttled))):
            (file.parent / "next").write_text(f"{value}\n")
            (file.parent / "next").replace(file)

    def leave(self, mib: int | None) -> None:
        """Set the free memory; None for what really is free."""
        text = self._real
        if mib is not None:
            # Of the same length, since a file that others read cannot be replaced below a mount.
            text = re.sub(
                r"(MemAvailable:)( *\d+)",
                lambda line: line[1] + str(mib << 10).rjust(len(line[2])),
                text,
            )
        with self._meminfo.open("r+") as file:
            file.write(text)

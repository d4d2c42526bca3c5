"""The hold: an application's or an administrator's "not now" to installations.

It is a file whose first line is the reason: `/etc/edgepack/hold` until somebody removes it,
`/run/edgepack/hold` until the service stops. The service writes the latter for its API; the second
line is then `until BOOT SECONDS`, the end on the kernel's monotonic clock in the boot of that id.
The wall clock of a device may jump.
"""

import re
import time
from contextlib import suppress
from pathlib import Path

from device_runtime.durable import aside_name
from device_runtime.update.target import Target

FILE_NAME = "hold"
FILES = (f"etc/edgepack/{FILE_NAME}", f"run/edgepack/{FILE_NAME}")
MAX_REASON = 200
"""Characters of the reason that are shown."""
_MAX_BYTES = 4096
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UNTIL = re.compile(r"until ([0-9a-f-]{1,64}) ([0-9]{1,15}(?:\.[0-9]{1,9})?)")


def reason(target: Target) -> str | None:
    """Return why installations are held, in one line; None if they are not."""
    for path in FILES:
        around, _, name = path.rpartition("/")
        try:
            # Not through a link: the service, which may put one there, may read less than root.
            with target.folder(around) as folder, folder.file(name) as file:
                held = parse(file.read(_MAX_BYTES))
        except FileNotFoundError:
            continue
        except OSError:
            return f"/{path} is there, and cannot be read"
        if held is not None:
            return held[0]
    return None


def parse(content: bytes) -> tuple[str, float | None] | None:
    """Read a hold.

    Returns:
        The reason, and the seconds left (None without an end); None if it has ended.
    """
    lines = content.decode("utf-8", "replace").split("\n")
    text = "".join(c for c in lines[0] if c.isprintable())
    shown = text.strip()[:MAX_REASON] or "no reason given"
    until = _UNTIL.fullmatch(lines[1]) if len(lines) > 1 else None
    if until is None:
        return shown, None
    left = float(until[2]) - time.monotonic()
    return (shown, left) if until[1] == _boot() and left > 0 else None


def put(folder: Path, reason: str, seconds: float) -> None:
    """Hold installations for some time; replaces the hold that is there.

    Args:
        folder: runtime folder of the service.
        reason: the reason, one line.
        seconds: length of the hold.

    Raises:
        OSError: the folder cannot be written to.
    """
    aside = folder / aside_name(FILE_NAME)
    try:
        aside.write_text(f"{reason}\nuntil {_boot()} {time.monotonic() + seconds:.3f}\n")
        aside.chmod(0o644)
        aside.rename(folder / FILE_NAME)
    finally:
        aside.unlink(missing_ok=True)


def get(folder: Path) -> tuple[str, float | None] | None:
    """Return the hold in a runtime folder, as `parse` does; None without one."""
    with suppress(OSError):
        return parse((folder / FILE_NAME).read_bytes()[:_MAX_BYTES])
    return None


def delete(folder: Path) -> None:
    """End the hold in a runtime folder, if there is one.

    Raises:
        OSError: the folder cannot be written to.
    """
    (folder / FILE_NAME).unlink(missing_ok=True)


def _boot() -> str:
    return _BOOT.read_text().strip()

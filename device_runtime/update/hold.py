"""The hold: an application's or an administrator's "not now" to installations.

It is a file whose first line is the reason: `/etc/edgepack/hold` until somebody removes it,
`/run/edgepack/hold` until the service stops.
"""

from device_runtime.update.target import Target

FILES = ("etc/edgepack/hold", "run/edgepack/hold")
MAX_REASON = 200
"""Characters of the reason that are shown."""


def reason(target: Target) -> str | None:
    """Return why installations are held, in one line; None if they are not."""
    for path in FILES:
        content = target.read(path, 4096)
        if content is not None:
            lines = content.decode("utf-8", "replace").splitlines()
            shown = "".join(c for c in (lines[0] if lines else "") if c.isprintable())
            return shown.strip()[:MAX_REASON] or "no reason given"
    return None

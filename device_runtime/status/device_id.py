"""The name of a device in MQTT topics."""

import hashlib
import hmac
import re
import socket
from pathlib import Path

from device_runtime.errors import ServiceError

MACHINE_ID = Path("/etc/machine-id")
# machine-id(5) asks to keep the machine's id to itself and to show a keyed hash of it, with a
# key of the application's own: this one is random and must never change.
_APPLICATION = bytes.fromhex("6f0a2b9dc14e4c5b8a77d9e35f216c48")
_VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def device_id(given: str | None, machine_id: Path = MACHINE_ID) -> str:
    """The name given, else one that this machine keeps, else its host name.

    Raises:
        ServiceError: the name given does not fit into a topic.
    """
    if given is not None:
        if not _VALID.fullmatch(given):
            raise ServiceError(
                f"{given!r} is no device id",
                hint="Use 1 to 64 letters, digits, '.', '_' and '-'.",
            )
        return given
    try:
        secret = bytes.fromhex(machine_id.read_text().strip())
    except (OSError, ValueError):
        secret = b""
    if len(secret) == 16:
        # As sd_id128_get_machine_app_specific(3), of which half is enough here.
        return hmac.new(secret, _APPLICATION, hashlib.sha256).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "device"

"""The name of a device in MQTT topics."""

import hashlib
import hmac
import re
import socket
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")
# machine-id(5) requires applications to keep the machine's id secret and to publish a keyed hash
# of it instead, with their own key: this one is random and must never change.
_APPLICATION = bytes.fromhex("6f0a2b9dc14e4c5b8a77d9e35f216c48")


def device_id(configured: str | None, machine_id: Path = MACHINE_ID) -> str:
    """Return the configured name, else one derived from the machine's id, else the host name."""
    if configured is not None:
        return configured
    try:
        secret = bytes.fromhex(machine_id.read_text().strip())
    except (OSError, ValueError):
        secret = b""
    if len(secret) == 16:
        # As in sd_id128_get_machine_app_specific(3); half of that hash is enough here.
        return hmac.new(secret, _APPLICATION, hashlib.sha256).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "device"

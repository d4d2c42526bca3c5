"""The name of a device in MQTT topics."""

import hashlib
import hmac
import re
import socket
from pathlib import Path

SERIAL_NUMBER = Path("/proc/device-tree/serial-number")
"""Serial number of the board, where the firmware passes a device tree (Raspberry Pi, Jetson): cards
that were cloned, machine-id and all, are told apart by it."""
MACHINE_ID = Path("/etc/machine-id")
# machine-id(5) requires applications to keep the machine's id secret and to publish a keyed hash
# of it instead, with their own key: this one is random and must never change.
_APPLICATION = bytes.fromhex("6f0a2b9dc14e4c5b8a77d9e35f216c48")


def device_id(
    configured: str | None, serial_number: Path = SERIAL_NUMBER, machine_id: Path = MACHINE_ID
) -> str:
    """Return the configured name, else one derived from the board's serial number or the machine's
    id, else the host name."""
    if configured is not None:
        return configured
    secret = _serial_number(serial_number) or _machine_id(machine_id)
    if secret:
        # As in sd_id128_get_machine_app_specific(3); half of that hash is enough here.
        return hmac.new(secret, _APPLICATION, hashlib.sha256).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "device"


def _serial_number(file: Path) -> bytes:
    """Read the serial number; empty if there is none, or only zeros."""
    try:
        number = file.read_bytes().strip(b"\0\n ")
    except OSError:
        return b""
    return number if number.strip(b"0") else b""


def _machine_id(file: Path) -> bytes:
    try:
        secret = bytes.fromhex(file.read_text().strip())
    except (OSError, ValueError):
        return b""
    return secret if len(secret) == 16 else b""

"""Home Assistant's discovery: the device, its sensors and its buttons, in one retained message.

The format is that of device-based discovery (https://www.home-assistant.io/integrations/mqtt/,
"Device discovery payload"). A value that the device cannot measure is None there: unknown.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from device_runtime.status.report import Identity

BUTTONS = {"restart": "Restart the model", "bench": "Measure the speed"}
"""Verbs that need no arguments, by what their buttons say."""

_Fields = dict[str, Any]


def topic(prefix: str, device_id: str) -> str:
    """Return the topic of a device's discovery."""
    return f"{prefix}/device/edgepack-{device_id.replace('.', '-')}/config"


def discovery(
    root: str, device_id: str, identity: Identity, verbs: Collection[str], every_s: float
) -> bytes:
    """Return the message.

    Args:
        root: beginning of the device's topics.
        device_id: name of the device.
        identity: the running release and program.
        verbs: commands that the device carries out.
        every_s: seconds between telemetry messages.
    """
    telemetry = root + "telemetry"
    # Three messages may be lost before a value is unknown.
    fresh = {"expire_after": max(60, round(4 * every_s))}
    parts: dict[str, _Fields] = {
        "health": {
            "platform": "sensor",
            "name": "Health",
            "state_topic": root + "health",
            "value_template": "{{ value_json.health }}",
            "device_class": "enum",
            "options": ["ok", "degraded", "failed"],
            "json_attributes_topic": root + "health",
            "json_attributes_template": "{{ value_json.checks | tojson }}",
        }
    }
    for name, (title, path, more) in _SENSORS.items():
        parts[name] = {
            "platform": "sensor",
            "name": title,
            "state_topic": telemetry,
            "value_template": f"{{{{ value_json.{path} }}}}",
            **fresh,
            **more,
        }
    for name, title in {"throttled": "Throttled", "under_voltage": "Under-voltage"}.items():
        parts[name] = {
            "platform": "binary_sensor",
            "name": title,
            "state_topic": telemetry,
            "value_template": f"{{{{ value_json.board.{name} }}}}",
            "payload_on": "True",
            "payload_off": "False",
            "device_class": "problem",
            "entity_category": "diagnostic",
            **fresh,
        }
    for verb in sorted(BUTTONS.keys() & verbs):
        parts[verb] = {
            "platform": "button",
            "name": BUTTONS[verb],
            "command_topic": f"{root}cmd/{verb}/home-assistant",
            # A press is meant for now: it is told apart by its time, and soon expires.
            "command_template": '{"status": "init", "nonce": "{{ now().isoformat() }}", '
            '"expires": "{{ (now() + timedelta(minutes=1)).isoformat() }}"}',
            "qos": 1,
            "retain": False,
            "entity_category": "config" if verb == "restart" else "diagnostic",
        }
    if "bench" in parts:
        parts["measured_speed"] = {
            "platform": "sensor",
            "name": "Measured speed",
            "state_topic": parts["bench"]["command_topic"],
            # The press itself and what has not ended are in the topic too: an empty value changes
            # nothing.
            "value_template": "{{ value_json.result.tokens_per_s "
            "if value_json.status == 'successful' else '' }}",
            **_measurement("tokens/s", 1),
            **_DIAGNOSTIC,
        }
    for name, part in parts.items():
        part["unique_id"] = f"edgepack-{device_id}-{name}"
    message = {
        "device": {
            "identifiers": [f"edgepack-{device_id}"],
            "name": device_id,
            "manufacturer": "edgepack",
            "model": f"{identity.model} ({identity.profile})",
            "sw_version": identity.version,
        },
        "origin": {"name": "edgepack-runtime", "sw_version": identity.runtime},
        "availability": [
            {
                "topic": root + "status",
                "value_template": "{{ value_json.state }}",
                "payload_available": "online",
                "payload_not_available": "offline",
            }
        ],
        "components": parts,
    }
    return msgspec.json.encode(message)


def _measurement(unit: str, digits: int, device_class: str | None = None) -> _Fields:
    fields: _Fields = {
        "unit_of_measurement": unit,
        "state_class": "measurement",
        "suggested_display_precision": digits,
    }
    return fields | ({"device_class": device_class} if device_class is not None else {})


_DIAGNOSTIC: _Fields = {"entity_category": "diagnostic"}
_SENSORS: dict[str, tuple[str, str, _Fields]] = {
    "tokens_per_s": ("Decode speed", "tokens_per_s.last", _measurement("tokens/s", 1)),
    "first_token": ("First token", "first_token_s.last", _measurement("s", 2, "duration")),
    "queue": ("Queue", "queue_length", {"state_class": "measurement"}),
    "requests": ("Requests", "requests.completed", {"state_class": "total_increasing"}),
    "temperature": (
        "Temperature",
        "board.temperature_c",
        _measurement("\u00b0C", 0, "temperature") | _DIAGNOSTIC,
    ),
    "memory": (
        "Memory available",
        "board.memory_available_bytes",
        _measurement("B", 0, "data_size") | _DIAGNOSTIC,
    ),
    "disk": (
        "Disk free",
        "board.disk_free_bytes",
        _measurement("B", 0, "data_size") | _DIAGNOSTIC,
    ),
    "dropped": (
        "Events dropped",
        "spool.dropped",
        {"state_class": "total_increasing"} | _DIAGNOSTIC,
    ),
}
"""Sensors of the telemetry: title, path in the message, further fields."""

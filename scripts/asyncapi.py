"""The MQTT contract as an AsyncAPI document; `python -m scripts.tables` writes it to docs/.

AsyncAPI 3.0, https://www.asyncapi.com/docs/reference/specification/v3.0.0, with the JSON Schemas of
the structs that the device publishes.
"""

import inspect
import json
import typing
from typing import Any

import msgspec

import device_runtime
from device_runtime.mqtt.contract import CHANNELS, VERBS, Channel, EventType

_SCHEMAS = "#/components/schemas/{name}"
_PARAMETERS = {
    "device": {"description": "Name of the device: `device_id`."},
    "type": {"description": "What happened.", "enum": list(typing.get_args(EventType))},
    "verb": {"description": "What to do.", "enum": list(VERBS)},
    "id": {"description": "Name that the sender chose for the command: 1 to 64 of A-Za-z0-9._-"},
}


_ACTIONS = {"send": "publish", "receive": "take"}


def document() -> str:
    """Return the document."""
    kinds = list(dict.fromkeys(kind for channel in CHANNELS.values() for kind in _kinds(channel)))
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic, channel in CHANNELS.items():
        name = topic.partition("/")[0]
        address = f"edgepack/v1/{{device}}/{topic}"
        names = [kind.__name__ for kind in _kinds(channel)]
        channels[name] = {
            "address": address,
            "description": channel.when,
            "parameters": {
                key: text for key, text in _PARAMETERS.items() if f"{{{key}}}" in address
            },
            "messages": {kind: {"$ref": f"#/components/messages/{kind}"} for kind in names},
        }
        for action, kind in zip(("send", "receive"), names, strict=False):
            operations[f"{_ACTIONS[action]}_{name}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{kind}"}],
                "bindings": {"mqtt": {"qos": channel.qos, "retain": channel.retained}},
            }
    messages = {
        kind.__name__: {
            "contentType": "application/json",
            "summary": (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " "),
            "payload": {"$ref": _SCHEMAS.format(name=kind.__name__)},
        }
        for kind in kinds
    }
    content = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edgepack device",
            "version": device_runtime.__version__,
            "description": "What a device with edgepack-runtime publishes and takes over MQTT.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _kinds(channel: Channel) -> list[type[msgspec.Struct]]:
    """Return the type of the messages that the device sends, and of those that it receives."""
    return [channel.payload, *([channel.received] if channel.received is not None else [])]

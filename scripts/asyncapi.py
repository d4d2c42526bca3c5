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
from device_runtime.mqtt.contract import CHANNELS, EventType

_SCHEMAS = "#/components/schemas/{name}"


def document() -> str:
    """Return the document."""
    kinds = list(dict.fromkeys(channel.payload for channel in CHANNELS.values()))
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic, channel in CHANNELS.items():
        name = topic.partition("/")[0]
        message = channel.payload.__name__
        parameters: dict[str, Any] = {"device": {"description": "Name of the device: `device_id`."}}
        if "{type}" in topic:
            types = list(typing.get_args(EventType))
            parameters["type"] = {"description": "What happened.", "enum": types}
        channels[name] = {
            "address": f"edgepack/v1/{{device}}/{topic}",
            "description": channel.when,
            "parameters": parameters,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        }
        operations[f"publish_{name}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
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
            "description": "What a device with edgepack-runtime publishes over MQTT.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

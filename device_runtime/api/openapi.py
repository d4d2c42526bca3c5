"""The API's own description: an OpenAPI document, generated from the structs it reads and writes.

Each API describes its own endpoints; those of the device itself are here.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

import device_runtime
from device_runtime.api import openai_description as openai
from device_runtime.api.anthropic import description as anthropic
from device_runtime.api.description import (
    GUARDED,
    JSON,
    REF_TEMPLATE,
    answer,
    close,
    json_answer,
    move_attributes,
    operation,
    with_body,
)
from device_runtime.api.ollama import description as ollama
from device_runtime.api.openai_responses import description as responses
from device_runtime.api.request_types import HoldBody
from device_runtime.api.response_types import Model, ModelList, UpdateHold
from device_runtime.status.metrics import CONTENT_TYPE as METRICS_TYPE
from device_runtime.status.report import HealthReport, RuntimeStatus

_ABOUT = """\
OpenAI's, Anthropic's and Ollama's APIs, served by the device itself. A field that cannot be
honoured is refused with an error that names it; null means absent."""
_STRUCTS: tuple[type[msgspec.Struct], ...] = (
    *openai.STRUCTS,
    *responses.STRUCTS,
    *anthropic.STRUCTS,
    *ollama.STRUCTS,
    ModelList,
    Model,
    HoldBody,
    UpdateHold,
    RuntimeStatus,
    HealthReport,
)


def document(models: Iterable[str]) -> dict[str, Any]:
    """Build the OpenAPI document.

    Args:
        models: the names that a request's `model` can have.
    """
    names = list(models)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgepack",
            "version": device_runtime.__version__,
            "summary": "A language model on this device",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Keys are required only if the device has a key file.
        "security": [{}, {"key": []}, {"anthropic": []}],
        "paths": {
            **openai.paths(),
            **responses.paths(),
            **anthropic.paths(names),
            **ollama.paths(names),
            **_paths(names),
        },
        "components": {
            "schemas": _schemas(names),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _paths(models: list[str]) -> dict[str, Any]:
    return {
        "/v1/models": {
            "get": operation(
                "listModels",
                "List the models; in Anthropic's form with the header `anthropic-version`",
                {200: json_answer("ModelList", "ModelPage")},
                GUARDED,
            ),
            "parameters": [anthropic.VERSION],
        },
        "/v1/models/{model}": {
            "get": operation(
                "retrieveModel",
                "Retrieve one model; in Anthropic's form with the header `anthropic-version`",
                {200: json_answer("Model", "ModelInfo")},
                (*GUARDED, 404),
            ),
            "parameters": [
                {
                    "name": "model",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                    "examples": {"model": {"value": models[0]}},
                },
                anthropic.VERSION,
            ],
        },
        "/v1/status": {
            "get": operation(
                "getStatus",
                "Report the device's status",
                {200: json_answer("RuntimeStatus")},
                GUARDED,
            )
        },
        "/v1/update-hold": {
            "get": operation(
                "getUpdateHold",
                "Report whether updates are held",
                {200: json_answer("UpdateHold")},
                GUARDED,
            ),
            "put": with_body(
                operation(
                    "putUpdateHold",
                    "Hold updates for some time: installations are refused with the reason",
                    {200: json_answer("UpdateHold")},
                    (400, *GUARDED, 413, 501),
                ),
                "HoldBody",
                {"hold": {"reason": "a customer is being served", "seconds": 600}},
            ),
            "delete": operation(
                "deleteUpdateHold",
                "End the hold",
                {200: json_answer("UpdateHold")},
                (*GUARDED, 501),
            ),
        },
        "/metrics": {
            "get": operation(
                "getMetrics",
                "Report metrics for Prometheus",
                {200: answer("Prometheus text format.", {METRICS_TYPE: {"type": "string"}})},
                GUARDED,
            )
        },
        "/healthz": {
            "get": operation(
                "getHealth",
                "Report liveness: 200 as long as the service works; needs no key",
                {200: json_answer("HealthReport")},
                (403,),
            )
        },
        "/readyz": {
            "get": operation(
                "getReadiness",
                "Report readiness: 200 only if the model can answer a request now; needs no key",
                {200: json_answer("HealthReport"), 503: json_answer("HealthReport")},
                (403,),
            )
        },
        "/openapi.json": {
            "get": operation(
                "getDocument",
                "Return this document",
                {200: answer("An OpenAPI document.", {JSON: {"type": "object"}})},
                GUARDED,
            )
        },
    }


def _schemas(models: list[str]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=REF_TEMPLATE)
    for schema in schemas.values():
        move_attributes(schema)
    status, health = schemas["RuntimeStatus"]["properties"], schemas["HealthReport"]["properties"]
    health |= {name: status[name] for name in health}
    close(schemas["HoldBody"], {})
    openai.complete(schemas, models)
    responses.complete(schemas, models)
    anthropic.complete(schemas, models)
    ollama.complete(schemas, models)
    return schemas

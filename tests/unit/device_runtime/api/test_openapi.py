"""The API's description against its routes and its structs."""

import re
from typing import Any

import pytest
from starlette.routing import Route

from device_runtime.api import openapi
from device_runtime.api.app import Api
from device_runtime.status.report import RequestStats
from device_runtime.worker.health import Health
from tests.support.fakes import FakeGenerator, runtime_status
from tests.unit.device_runtime.api.ollama.test_endpoints import SERVED

REFUSING = re.compile(r"/api/(pull|push|create|copy|delete|blobs/\{digest\})|.*/cancel")
"""Endpoints that refuse every request."""


@pytest.fixture
def document() -> dict[str, Any]:
    return openapi.document(["tiny", "tiny:a"])


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    stats = RequestStats()
    app = Api(FakeGenerator(), stats, lambda: runtime_status(stats, Health.READY), SERVED).app()
    routes = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        if isinstance(route, Route) and not REFUSING.fullmatch(route.path)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {
        (path, method.upper())
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert described == routes


def test_no_two_structs_have_the_same_name(document: dict[str, Any]) -> None:
    # msgspec would write the module's path before both names.
    assert [name for name in document["components"]["schemas"] if not name.isalnum()] == []


@pytest.mark.parametrize(
    ("path", "struct"),
    [
        ("/v1/chat/completions", "Error"),
        ("/v1/messages", "ErrorMessage"),
        ("/v1/messages/count_tokens", "ErrorMessage"),
        ("/api/chat", "OllamaError"),
        ("/api/show", "OllamaError"),
        ("/api/embed", "OllamaError"),
    ],
)
def test_errors_have_the_form_of_the_paths_api(
    document: dict[str, Any], path: str, struct: str
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    forms = [responses[status]["content"] for status in responses if status != "200"]
    assert {str(form["application/json"]["schema"]["$ref"]) for form in forms} == {
        f"#/components/schemas/{struct}"
    }


def test_streamed_answers_have_their_content_type(document: dict[str, Any]) -> None:
    for path, media_type in (
        ("/v1/messages", "text/event-stream"),
        ("/api/chat", "application/x-ndjson"),
        ("/api/generate", "application/x-ndjson"),
    ):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert [*content] == ["application/json", media_type]


def test_latest_may_follow_a_models_name_in_ollamas_api(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    names = ["tiny", "tiny:a", "tiny:latest", "tiny:a:latest"]
    assert schemas["OllamaChatBody"]["properties"]["model"]["enum"] == names
    assert schemas["MessagesBody"]["properties"]["model"]["enum"] == names[:2]

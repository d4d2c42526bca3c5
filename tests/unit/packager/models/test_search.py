"""`edgepack search`: what the hub finds, and what edgepack makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import hub
from tests.support.commands import edgepack, refused


def _entry(name: str, **more: Any) -> dict[str, Any]:
    """An entry as the hub sends it, with fields that edgepack does not read."""
    return {"_id": "1", "id": name, "downloads": 1234, "gated": False, "tags": [], **more}


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
FOUND = [
    _entry(
        "big/llama",
        gated="manual",
        tags=["text-generation", "license:apache-2.0"],
        safetensors={"parameters": {"BF16": 1_235_814_400}, "total": 1_235_814_400},
        config=LLAMA,
    ),
    _entry("big/llama-pickled", config=LLAMA),
    _entry("big/llama-GGUF", gguf={"total": 360_000_000, "architecture": "llama"}),
    _entry(
        "big/llama-other",
        tags=["license:other"],
        safetensors={"total": 7},
        config={"architectures": ["MambaForCausalLM"]},
    ),
    _entry("big/llama-plain\x1b[31m", safetensors={"total": 0}),
]


@pytest.fixture
def fake_hub(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.FakeHub]:
    with hub.serving(tiny_hf) as served:
        served.found = FOUND
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def test_models_are_found_with_what_edgepack_makes_of_them(fake_hub: hub.FakeHub) -> None:
    outcome = edgepack("search", "LLAMA", "--json")
    assert outcome.status == 0, outcome.err
    first, second, third, fourth = json.loads(outcome.out)
    assert first == {
        "id": "big/llama",
        "parameters": 1_235_814_400,
        "license": "Apache-2.0",
        "downloads": 1234,
        "gated": True,
        "gguf": False,
        "architecture": "LlamaForCausalLM",
        "supported": True,
    }
    assert (second["gguf"], second["supported"], second["architecture"]) == (True, True, "llama")
    assert (third["supported"], third["license"]) == (False, "")
    assert fourth["supported"] is None
    (request,) = fake_hub.requests
    for word in ("pipeline_tag=text-generation", "sort=downloads", "expand=safetensors"):
        assert word in request


def test_the_table_of_what_was_found(fake_hub: hub.FakeHub) -> None:
    text = edgepack("search", "big/llama").out
    lines = {line.split()[0]: line for line in text.splitlines() if "big/" in line}
    for word in ("(gated)", "1.2 B", "Apache-2.0", "1,234", "safetensors", "yes"):
        assert word in lines["big/llama"]
    assert "GGUF" in lines["big/llama-GGUF"]
    assert "no: MambaForCausalLM" in lines["big/llama-other"]
    assert "\x1b" not in text


def test_as_many_as_were_asked_for(fake_hub: hub.FakeHub) -> None:
    assert len(json.loads(edgepack("search", "llama", "--json", "--limit", "2").out)) == 2


def test_nothing_is_found(fake_hub: hub.FakeHub) -> None:
    outcome = edgepack("search", "no", "such", "model")
    assert outcome.status == 0
    assert "no text models" in outcome.out
    assert "search=no+such+model" in fake_hub.requests[0]


def test_an_answer_of_another_form_is_an_error(fake_hub: hub.FakeHub) -> None:
    fake_hub.found = [_entry("big/llama", downloads="many")]
    refused(edgepack("search", "llama"), 4, "does not respond as the hub does", "downloads")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    refused(edgepack("search", "llama"), 4, "the hub cannot be reached", "HTTPS_PROXY")

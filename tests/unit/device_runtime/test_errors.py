"""The table of errors: one complete row for each class."""

import importlib
import pkgutil
from http import HTTPStatus

import msgspec
import pytest

import device_runtime
from device_runtime import errors
from device_runtime.api.chat_types import ChatBody
from device_runtime.api.completion_types import CompletionBody
from device_runtime.api.openapi import document
from device_runtime.errors import DeviceError, error_class, error_classes
from device_runtime.inference import engine
from device_runtime.worker.messages import FOR_PARENT, Failed

for module in pkgutil.walk_packages(device_runtime.__path__, "device_runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

CLASSES = [kind for kind in error_classes() if kind.__module__.startswith("device_runtime.")]
NAMED = [kind for kind in CLASSES if "wire_name" in vars(kind)]


def test_errors_are_found_in_all_modules() -> None:
    modules = {kind.__module__.removeprefix("device_runtime.") for kind in CLASSES}
    assert {"errors", "inference.engine", "worker.errors", "json_schema.document"} <= modules


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_complete_row(kind: type[DeviceError]) -> None:
    assert 1 <= kind.exit_code < 64
    assert HTTPStatus(kind.http_status) >= HTTPStatus.BAD_REQUEST
    described = document(["tiny"])["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert str(kind.http_status) in described, "openapi.py does not document this status"
    assert kind.api_code.replace("_", "").isalpha()
    fields = {*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__, "file"}
    assert kind.param is None or kind.param in fields
    assert kind.refuses or kind.http_status >= 500, "a 4xx that counts as our failure"


@pytest.mark.parametrize("kind", NAMED)
def test_a_wire_name_becomes_the_same_class_again(kind: type[DeviceError]) -> None:
    sent = Failed.of(kind("too bad", hint="Mend it."), 7)
    received = FOR_PARENT.decode(msgspec.msgpack.encode(sent))
    assert isinstance(received, Failed)
    error = received.error
    assert type(error) is kind
    assert (str(error), error.hint, received.id) == ("too bad", "Mend it.", 7)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_without_a_wire_name_arrives_as_its_nearest_ancestor_with_one(
    kind: type[DeviceError],
) -> None:
    ancestors = [ancestor for ancestor in kind.__mro__ if ancestor in NAMED]
    assert error_class(kind.wire_name) is ancestors[0]


def test_errors_of_the_inference_process_have_wire_names_of_their_own() -> None:
    raised_there = [
        kind for kind in CLASSES if kind.__module__ in (errors.__name__, engine.__name__)
    ]
    assert [kind for kind in raised_there if kind not in NAMED] == []


def test_an_unknown_wire_name_is_refused() -> None:
    with pytest.raises(KeyError):
        error_class("weather")

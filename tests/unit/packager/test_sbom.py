"""The SBOM of a bundle: valid CycloneDX, with every package and file."""

import json
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from device_runtime.bundle.model_facts import ModelFacts
from packager import sbom
from packager.sbom import Package

MODEL = ModelFacts(
    name="m", source="s", source_sha256="a" * 64, architecture="A", parameters=1, license="MIT"
)
PACKAGES = (
    Package(
        name="x",
        version="1",
        license="Apache-2.0 OR MIT",
        purl="pkg:pypi/x@1",
        sha256="b" * 64,
        origin="http://127.0.0.1/simple/x-1-cp311-cp311-linux_aarch64.whl",
        files={"_internal/x.so": "c" * 64, "_internal/y.so": "d" * 64},
        contains=(Package(name="crate", version="2", license="", purl="pkg:cargo/crate@2"),),
    ),
    Package(
        name="z",
        version="",
        license="a licence of its own",
        contains=(Package(name="crate", version="2", license="", purl="pkg:cargo/crate@2"),),
    ),
)


@pytest.fixture
def components() -> dict[str, Any]:
    rendered = sbom.render("m", "1", [MODEL], PACKAGES).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(rendered) is None
    return {component["name"]: component for component in json.loads(rendered)["components"]}


def test_each_model_is_a_component() -> None:
    other = msgspec.structs.replace(MODEL, name="e", source_sha256="e" * 64)
    listed = json.loads(sbom.render("m", "1", [MODEL, other], ()))["components"]
    models = {component["name"]: digest(component) for component in listed}
    assert models == {"m": "a" * 64, "e": "e" * 64}
    assert {component["type"] for component in listed} == {"machine-learning-model"}


def digest(component: dict[str, Any]) -> str:
    (entry,) = component["hashes"]
    assert entry["alg"] == "SHA-256"
    return str(entry["content"])


def test_packages_have_their_files_and_what_they_contain(components: dict[str, Any]) -> None:
    assert components.keys() == {"m", "x", "z"}
    package = components["x"]
    assert (package["purl"], package["version"], digest(package)) == ("pkg:pypi/x@1", "1", "b" * 64)
    assert package["licenses"] == [{"expression": "Apache-2.0 OR MIT"}]
    (reference,) = package["externalReferences"]
    assert reference["type"] == "distribution"
    assert reference["url"] == "http://127.0.0.1/simple/x-1-cp311-cp311-linux_aarch64.whl"
    parts = {(part["type"], part["name"]): part for part in package["components"]}
    assert digest(parts["file", "_internal/x.so"]) == "c" * 64
    assert digest(parts["file", "_internal/y.so"]) == "d" * 64
    assert parts["library", "crate"]["purl"] == "pkg:cargo/crate@2"


def test_package_that_says_little_has_no_empty_fields(components: dict[str, Any]) -> None:
    package = components["z"]
    assert package.keys() == {"bom-ref", "components", "licenses", "name", "type"}
    assert package["licenses"] == [{"license": {"name": "a licence of its own"}}]


def test_same_packages_give_the_same_bytes() -> None:
    assert sbom.render("m", "1", [MODEL], PACKAGES) == sbom.render("m", "1", [MODEL], PACKAGES)

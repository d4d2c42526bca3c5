"""The signed statements beside a bundle: provenance, and the signature of the model's files."""

import base64
import getpass
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from device_runtime.bundle import signature
from device_runtime.bundle.reader import open_bundle
from packager import private_keys
from packager.attest.files import write
from packager.attest.statement import PAYLOAD_TYPE
from packager.private_keys import Signer
from tests.support.bundles import draft

ED, EC = private_keys.new("ed25519"), private_keys.new("ecdsa-p256")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "tiny.epk")


def opened(envelope: bytes, *keys: Signer) -> dict[str, Any]:
    """The statement of an envelope, whose signatures are those of the keys."""
    payload = base64.b64decode(json.loads(envelope)["payload"])
    ids = signature.signers(envelope, payload, [key.public for key in keys], PAYLOAD_TYPE)
    assert ids == {key.public.id for key in keys}
    statement: dict[str, Any] = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    return statement


def provenance(bundle: Path, *keys: Signer) -> dict[str, Any]:
    return opened(bundle.with_name("tiny.epk.provenance.json").read_bytes(), *keys)


def test_provenance_says_what_built_the_bundle_from_what(bundle: Path) -> None:
    write(bundle, (ED, EC))
    statement = provenance(bundle, ED, EC)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    with open_bundle(bundle) as source:
        manifest = source.manifest
    assert statement["subject"] == [
        {
            "name": "tiny.epk",
            "digest": {"sha256": hashlib.sha256(bundle.read_bytes()).hexdigest()},
        },
        {"name": "manifest.json", "digest": {"sha256": source.digest}},
    ]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["buildType"] == "tag:edgepack,2026:build/v1"
    assert definition["externalParameters"] == {
        "profile": "cpu",
        "model": "test",
        "recipe": "fp32",
        "id": "tiny-cpu",
        "version": "1.0.0",
        "sequence": 1,
    }
    assert manifest.kit is not None
    assert definition["resolvedDependencies"] == [
        {"name": "tiny", "digest": {"sha256": manifest.model.source_sha256}},
        {"name": "linux-x86_64-cpu", "digest": {"sha256": manifest.kit.digest}},
    ]
    assert statement["predicate"]["runDetails"]["builder"]["version"] == {"edgepack": "0"}


def test_versions_are_package_urls(tmp_path: Path) -> None:
    versions = {"edgepack": "1", "python": "3.11.7", "onnxruntime-genai": "0.18.0"}
    path = draft(machine=None).replaced(built_with=versions).write(tmp_path / "tiny.epk")
    write(path, [ED])
    statement = provenance(path, ED)
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [item.get("uri") for item in dependencies] == [
        None,
        "pkg:pypi/onnxruntime-genai@0.18.0",
        "pkg:generic/python@3.11.7",
    ]


def test_same_bundle_gives_the_same_bytes_without_a_trace_of_the_host(bundle: Path) -> None:
    write(bundle, [ED])
    first = bundle.with_name("tiny.epk.provenance.json").read_bytes()
    write(bundle, [ED])
    assert bundle.with_name("tiny.epk.provenance.json").read_bytes() == first
    text = json.dumps(provenance(bundle, ED))
    for private in (str(bundle.parent), getpass.getuser(), socket.gethostname()):
        assert private not in text


def test_unsigned_bundle_has_none(bundle: Path) -> None:
    write(bundle, ())
    assert [path.name for path in bundle.parent.iterdir()] == ["tiny.epk"]


def test_model_signature_lists_the_files_of_the_model(bundle: Path) -> None:
    write(bundle, (ED, EC))
    document = json.loads(bundle.with_name("tiny.epk.model.sig").read_bytes())
    assert document["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = document["verificationMaterial"]["publicKey"]["hint"]
    assert hint == hashlib.sha256(EC.public.pem).hexdigest()
    payload = base64.b64decode(document["dsseEnvelope"]["payload"])
    value = base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"])
    assert EC.public.verify(value, signature.pae("application/vnd.in-toto+json", payload))
    statement = json.loads(payload)
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    listed = {item["name"]: item["digest"] for item in statement["predicate"]["resources"]}
    with open_bundle(bundle) as source:
        assert {f"model/{name}": digest for name, digest in listed.items()} == {
            record.path: record.sha256
            for record in source.manifest.records
            if record.path.startswith("model/")
        }
    together = b"".join(bytes.fromhex(digest) for digest in listed.values())
    assert statement["subject"] == [
        {"name": "model", "digest": {"sha256": hashlib.sha256(together).hexdigest()}}
    ]


def test_ed25519_alone_gives_no_model_signature_and_says_why(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(bundle, [ED])
    assert not bundle.with_name("tiny.epk.model.sig").exists()
    assert "OpenSSF Model Signing has no Ed25519" in capsys.readouterr().err

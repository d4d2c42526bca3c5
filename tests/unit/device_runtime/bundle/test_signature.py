"""A signature counts only for the key, the type and the bytes that it was made for."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.bundle import signature
from device_runtime.bundle.signature import load_public_key, pae, signers
from device_runtime.errors import BundleError
from tests.support.keys import Key, ed25519_key, envelope, p256_key, public_pem

PAYLOAD = b'{\n "format": 2\n}\n'
KEYS = {"ed25519": ed25519_key(), "ecdsa-p256": p256_key()}
both = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """An envelope with its JSON changed."""
    document = json.loads(envelope(PAYLOAD, ed25519_key()))
    change(document)
    return json.dumps(document).encode()


def refused(data: bytes, match: str, *keys: Key) -> None:
    known = [key.public for key in keys or (ed25519_key(),)]
    with pytest.raises(BundleError, match=match) as caught:
        signers(data, PAYLOAD, known)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@both
def test_signature_of_a_known_key(key: Key) -> None:
    data = envelope(PAYLOAD, key)
    assert signers(data, PAYLOAD, [key.public]) == {key.id}
    assert signers(data, PAYLOAD, [ed25519_key("stranger").public]) == frozenset()
    assert signers(data, PAYLOAD, []) == frozenset()


def test_preauthentication_encoding_is_that_of_the_specification() -> None:
    """The example of DSSE's protocol.md, with its test key's P-256 signature."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@both
def test_every_byte_changed_in_any_way_is_noticed(key: Key) -> None:
    """One known key: nothing is left that is signed."""
    data = envelope(PAYLOAD, key)
    for position in range(len(data)):
        for mask in (0x01, 0x02, 0x04, 0x07, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] ^= mask
            try:
                assert signers(bytes(broken), PAYLOAD, [key.public]) == frozenset()
            except BundleError as error:
                assert error.hint


@both
def test_every_length_of_a_truncated_envelope_is_refused(key: Key) -> None:
    data = envelope(PAYLOAD, key)
    for length in range(1, len(data)):
        refused(data[:length], "signature", key)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        signers(data, PAYLOAD, [ed25519_key().public])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["payload", "payloadType", "signatures", "x"]), json_values))
def test_json_of_another_shape_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        signers(json.dumps(fields).encode(), PAYLOAD, [ed25519_key().public])


def test_payload_of_another_bundle() -> None:
    refused(envelope(PAYLOAD + b"\n", ed25519_key()), "damaged, or for another manifest")
    text = base64.b64encode(PAYLOAD).decode()
    for other in ("", "AAAA", f"{text}\n"):
        elsewhere = changed(methodcaller("update", payload=other, note=text))
        refused(elsewhere, "damaged, or for another manifest")


def test_unknown_payload_type() -> None:
    kind = "application/vnd.in-toto+json"
    key = ed25519_key()
    other = signature.write(PAYLOAD, {key.id: key.sign(PAYLOAD, kind)}, kind)
    assert signers(other, PAYLOAD, [key.public], kind) == {key.id}
    refused(other, "payload of the type 'application/vnd.in-toto")
    refused(
        signature.write(PAYLOAD, {key.id: key.sign(PAYLOAD, kind)}), "signature by key .* is wrong"
    )


def test_one_key_does_not_count_twice() -> None:
    refused(
        changed(lambda document: document["signatures"].append(document["signatures"][0])),
        "has two signatures",
    )
    data = envelope(PAYLOAD, ed25519_key())
    assert len(signers(data, PAYLOAD, [ed25519_key().public, ed25519_key().public])) == 1


def test_two_keys_count_as_two() -> None:
    keys = (ed25519_key(), p256_key())
    data = envelope(PAYLOAD, *keys)
    assert signers(data, PAYLOAD, [key.public for key in keys]) == {key.id for key in keys}


def test_the_algorithm_is_the_keys() -> None:
    """Neither a key id with another key's signature nor a field `alg` changes it."""
    first, second = KEYS.values()
    for key, other in ((first, second), (second, first)):
        confused = signature.write(PAYLOAD, {key.id: other.sign(PAYLOAD)})
        refused(confused, "is wrong", first, second)
        refused(confused, "is wrong", key)
    for alg in ("none", "HS256", "ecdsa-p256", "ed25519"):
        document = json.loads(envelope(PAYLOAD, first))
        document["signatures"][0]["alg"] = alg
        named = json.dumps(document).encode()
        assert signers(named, PAYLOAD, [first.public]) == {first.id}


def test_signature_of_zeros_and_of_nothing() -> None:
    for key in KEYS.values():
        for value in (bytes(64), b"0", bytes.fromhex("3006020100020100")):
            refused(signature.write(PAYLOAD, {key.id: value}), "is wrong", key)
        refused(signature.write(PAYLOAD, {key.id: b""}), "not base64", key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"payloadType":', b'"payloadType":"x","payloadType":'),
        (b'{"keyid":', b'{"keyid":"x","keyid":'),
        (b'"signatures":', b'"signatures":[],"signatures":'),
        (b'"sig":', b'"sig":"AAAA","sig":'),
    ],
)
def test_json_key_that_is_there_twice(old: bytes, new: bytes) -> None:
    data = envelope(PAYLOAD, ed25519_key())
    assert old in data
    refused(data.replace(old, new), "there twice")


def test_base64_in_another_form() -> None:
    def spaced(document: dict[str, Any]) -> None:
        document["signatures"][0]["sig"] += "\n"

    refused(changed(spaced), "not base64")

    def other_last_bits(document: dict[str, Any]) -> None:
        text = document["signatures"][0]["sig"]
        assert text.endswith("==")
        document["signatures"][0]["sig"] = f"{text[:-3]}{chr(ord(text[-3]) + 1)}=="

    refused(changed(other_last_bits), "not base64")


def test_giant_envelopes_are_refused_before_they_are_read() -> None:
    data = envelope(PAYLOAD, ed25519_key())
    refused(data + b" " * (16 << 10), "too large")
    refused(b"[" * 16_000, "nested more than 32 levels")
    many = {f"{number:064x}": b"x" for number in range(17)}
    refused(signature.write(PAYLOAD, many), "1 to 16 signatures")
    refused(signature.write(PAYLOAD, {}), "1 to 16 signatures")


def test_key_ids_are_digests() -> None:
    for key_id in ("", "é" * 32, "A" * 64, "0" * 63):
        refused(signature.write(PAYLOAD, {key_id: b"x"}), "key id")


def test_a_key_is_the_same_whatever_the_line_ends_of_its_text() -> None:
    key = p256_key().public
    other = load_public_key(key.pem.replace(b"\n", b"\r\n") + b"\n")
    assert (other.id, other.pem) == (key.id, key.pem)


def private_pem() -> bytes:
    return ed25519_key().private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        pytest.param(
            public_pem(rsa.generate_private_key(65537, 2048).public_key()),
            "neither Ed25519 nor ECDSA P-256",
            id="rsa",
        ),
        pytest.param(
            public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()),
            "only P-256",
            id="p-384",
        ),
        pytest.param(
            public_pem(ed448.Ed448PrivateKey.generate().public_key()), "neither", id="ed448"
        ),
        pytest.param(ed25519_key().pem * 2, "not a public key in PEM", id="two"),
        pytest.param(b"", "not a public key in PEM", id="empty"),
        pytest.param(ed25519_key().pem + b" " * 5000, "not a public key in PEM", id="giant"),
        pytest.param(
            ed25519_key().pem.replace(b"MCow", b"MCox"), "not a valid public key", id="damaged"
        ),
        pytest.param(private_pem(), "a private key, where a public key", id="private"),
    ],
)
def test_keys_that_are_refused(pem: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load_public_key(pem)
    secret = pem.splitlines()[1] if b"PRIVATE" in pem else b"-----"
    assert secret.decode() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_serving_does_not_load_cryptography() -> None:
    """It takes memory and time to load that a device should have for its model."""
    program = (
        "import sys, device_runtime.commands.serve, device_runtime.service;"
        "import device_runtime.bundle.reader, device_runtime.update.keyring;"
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""Fuzz signatures and keys: an envelope has the signers it says, or is refused."""

import random
from collections.abc import Iterator
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_runtime.bundle import signature
from device_runtime.bundle.signature import MANIFEST_TYPE, load_public_key, pae, signers
from device_runtime.errors import BundleError
from tests.fuzz import manifest as fuzz_manifest

PAYLOAD = b'{"format": 2}\n'
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(12345, ec.SECP256R1())
PEMS = tuple(
    key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for key in (ED25519, P256)
)
KEYS = tuple(load_public_key(pem) for pem in PEMS)
MESSAGE = pae(MANIFEST_TYPE, PAYLOAD)
SIGNATURES = {
    KEYS[0].id: ED25519.sign(MESSAGE),
    KEYS[1].id: P256.sign(MESSAGE, ec.ECDSA(SHA256())),
}
ENVELOPE = signature.write(PAYLOAD, SIGNATURES)
OTHER = b'{"format": 3}\n'


def run(data: bytes) -> None:
    with suppress(BundleError):
        assert signers(data, PAYLOAD, KEYS) <= SIGNATURES.keys()
    with suppress(BundleError):
        assert not signers(data, OTHER, KEYS), "a signature of another payload"
    with suppress(ValueError):
        key = load_public_key(data)
        assert load_public_key(key.pem) == key


def seeds() -> Iterator[bytes]:
    yield ENVELOPE
    for key_id, value in SIGNATURES.items():
        yield signature.write(PAYLOAD, {key_id: value})
    yield signature.write(OTHER, {KEYS[0].id: bytes(64)})
    yield from PEMS


def mutate(data: bytes, source: random.Random) -> bytes:
    """Change a value of the JSON, or some characters of a key."""
    if not data.startswith(b"-----"):
        return fuzz_manifest.mutate_json(data, ENVELOPE, source)
    place = source.randrange(len(data))
    return data[:place] + source.randbytes(source.randrange(4)) + data[place + 1 :]

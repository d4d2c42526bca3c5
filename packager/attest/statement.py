"""In-toto statements: signed claims about files.

Source: https://github.com/in-toto/attestation/tree/main/spec/v1
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""Payload type of a DSSE envelope with a statement."""


class PublicKey(Protocol):
    """The public half of a key that signs."""

    @property
    def id(self) -> str:
        """Id of the key."""
        ...

    @property
    def pem(self) -> bytes:
        """The key as PEM (SubjectPublicKeyInfo)."""
        ...

    @property
    def algorithm(self) -> str:
        """Name of the algorithm, `ed25519` or `ecdsa-p256`."""
        ...


class Signer(Protocol):
    """A key that signs."""

    @property
    def public(self) -> PublicKey:
        """The public half."""
        ...

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Sign a payload and its type, as DSSE encodes them."""
        ...


def statement(
    subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]
) -> bytes:
    """Encode a statement: the same statement gives the same bytes.

    Args:
        subjects: sha256 (hex) of what it is about, by name.
        predicate_type: URI of the kind of claim.
        predicate: the claim.
    """
    content = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": value}} for name, value in subjects.items()
        ],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()

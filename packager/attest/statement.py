"""In-toto statements: signed claims about files.

Source: https://github.com/in-toto/attestation/tree/main/spec/v1
"""

import json
from collections.abc import Mapping
from typing import Any

PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""Payload type of a DSSE envelope with a statement."""


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

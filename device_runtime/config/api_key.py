"""An entry of the file of API keys: a key's name, its digest and the day it was created.

laptop sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef 2026-07-01
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

PREFIX = "sk-edgepack-"
"""Start of each key, which people and secret scanners recognize."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LINE = re.compile(
    rf"(?P<name>{NAME.pattern})\s+sha256:(?P<digest>[0-9a-f]{{64}})\s+(?P<created>\d{{4}}-\d\d-\d\d)"
)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An entry of the file: all that is known of a key.

    Attributes:
        name: name of the key's owner.
        digest: SHA-256 of the key, hexadecimal.
        created: day of creation, `2026-07-01`.
    """

    name: str
    digest: str
    created: str


def digest(key: str) -> str:
    """Return the digest of a key that the file stores.

    A slow hash (scrypt, Argon2) protects passwords that people choose, because those can be
    guessed. These keys are 256 random bits, which cannot, so a fast hash is as safe. It costs a
    slow board next to nothing per request, and wrong keys cannot be sent to waste its CPU.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def entry(name: str, key: str) -> str:
    """Return the line of the file for a key that is created today."""
    return f"{name} sha256:{digest(key)} {datetime.now(UTC):%Y-%m-%d}"

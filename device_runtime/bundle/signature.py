"""Signatures of a manifest. No I/O: bytes in, key ids out.

A signature is a DSSE envelope (Dead Simple Signing Envelope 1.0) as JSON: the payload's type, the
payload in base64, and for each signature the id of its key and its value in base64. The signed
text is the "pre-authentication encoding" of type and payload, `pae`.

Keys are Ed25519, or ECDSA on P-256 with SHA-256. A key's id is the sha256 of its DER
SubjectPublicKeyInfo. The algorithm is the key's: an envelope cannot choose it.

`cryptography` is imported where it is used: serving a model does not pay for it.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from device_runtime.bundle import strict_json
from device_runtime.bundle.quantization import Struct
from device_runtime.errors import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MANIFEST_TYPE = "application/vnd.edgepack.manifest+json"
"""Payload type of a bundle's envelope."""

MAX_SIGNATURES = 16
MAX_KEY_BYTES = 4096
_MAX_ENVELOPE_BYTES = 16 << 10
"""Bound for an envelope without its payload."""

_KEY_ID = re.compile(r"[0-9a-f]{64}")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----\s[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----\s*")

_AGAIN = "Sign the bundle again, or copy it again from where it was signed."


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        id: sha256 of the DER SubjectPublicKeyInfo, hex.
        pem: the key as PEM (SubjectPublicKeyInfo).
        key: the key of `cryptography`.
    """

    id: str
    pem: bytes
    key: "Ed25519PublicKey | EllipticCurvePublicKey"

    @property
    def algorithm(self) -> str:
        """Name of the algorithm, `ed25519` or `ecdsa-p256`."""
        return "ecdsa-p256" if hasattr(self.key, "curve") else "ed25519"

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether a signature of a message is this key's."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            if isinstance(self.key, ec.EllipticCurvePublicKey):
                self.key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            else:
                self.key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def load_public_key(pem: bytes) -> PublicKey:
    """Read a public key.

    Raises:
        ValueError: it is not one, or not of a supported kind; the message does not repeat it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if b"PRIVATE KEY" in pem:
        raise ValueError("a private key, where a public key is expected")
    if len(pem) > MAX_KEY_BYTES or not _PEM.fullmatch(pem):
        raise ValueError("not a public key in PEM")
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a valid public key") from None
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"a key on the curve {key.curve.name}; only P-256 is supported")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError("a key that is neither Ed25519 nor ECDSA P-256")
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return PublicKey(
        id=hashlib.sha256(key.public_bytes(serialization.Encoding.DER, kind)).hexdigest(),
        pem=key.public_bytes(serialization.Encoding.PEM, kind),
        key=key,
    )


def is_key_id(text: str) -> bool:
    """Return whether a text has the form of a key id."""
    return _KEY_ID.fullmatch(text) is not None


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the text that is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


class _Signature(Struct, frozen=True, kw_only=True):
    keyid: str
    sig: str


class _Envelope(Struct, frozen=True, kw_only=True):
    payloadType: str  # noqa: N815  (DSSE's name)
    payload: str
    signatures: tuple[_Signature, ...]


def write(payload: bytes, signatures: dict[str, bytes], payload_type: str = MANIFEST_TYPE) -> bytes:
    """Write an envelope.

    Args:
        payload: the signed bytes.
        signatures: signatures of `pae(payload_type, payload)` by key id.
        payload_type: the payload's type.
    """
    envelope = _Envelope(
        payloadType=payload_type,
        payload=base64.b64encode(payload).decode(),
        signatures=tuple(
            _Signature(keyid=key_id, sig=base64.b64encode(value).decode())
            for key_id, value in signatures.items()
        ),
    )
    return msgspec.json.encode(envelope)


def read(envelope: bytes, payload: bytes, payload_type: str = MANIFEST_TYPE) -> dict[str, bytes]:
    """Read an envelope that must be of a payload; return the unchecked signatures by key id.

    Unknown fields are ignored, as DSSE asks for. Base64 has one form: no byte can be changed
    without notice.

    Raises:
        BundleError: it is malformed, or of another payload or type, or a key id is there twice.
    """
    encoded = base64.b64encode(payload).decode()
    if len(envelope) > len(encoded) + _MAX_ENVELOPE_BYTES:
        raise _malformed("it is too large")
    strict_json.check(envelope, "the signature")
    try:
        content = msgspec.json.decode(envelope, type=_Envelope)
    except msgspec.DecodeError as error:
        raise _malformed(str(error)) from None
    if content.payload != encoded:
        raise BundleError("the signature is damaged, or for another manifest", hint=_AGAIN)
    if content.payloadType != payload_type:
        raise BundleError(
            f"the signature is for a payload of the type {content.payloadType[:100]!r}", hint=_AGAIN
        )
    if not 0 < len(content.signatures) <= MAX_SIGNATURES:
        raise _malformed(f"it must have 1 to {MAX_SIGNATURES} signatures")
    signatures: dict[str, bytes] = {}
    for signature in content.signatures:
        if not is_key_id(signature.keyid):
            raise _malformed("a key id is not a sha256")
        if signature.keyid in signatures:
            raise _malformed(f"key {signature.keyid[:16]} has two signatures")
        signatures[signature.keyid] = _base64(signature.sig)
    return signatures


def signers(
    envelope: bytes,
    payload: bytes,
    keys: Iterable[PublicKey],
    payload_type: str = MANIFEST_TYPE,
) -> frozenset[str]:
    """Return the ids of the given keys that signed a payload.

    Signatures by other keys are ignored: with a rotation, a bundle has those of old and new keys.

    Raises:
        BundleError: the envelope is malformed or of another payload or type, or the signature by
            one of the keys is wrong.
    """
    signatures = read(envelope, payload, payload_type)
    message = pae(payload_type, payload)
    ids = set()
    for key in keys:
        if key.id not in signatures:
            continue
        if not key.verify(signatures[key.id], message):
            raise BundleError(f"the signature by key {key.id[:16]} is wrong", hint=_AGAIN)
        ids.add(key.id)
    return frozenset(ids)


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise _malformed("a signature is not base64")
    return data


def _malformed(problem: str) -> BundleError:
    return BundleError(f"the signature is malformed: {problem}", hint=_AGAIN)

"""Keys that sign, made for a test."""

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


@dataclass(frozen=True)
class Public:
    id: str
    pem: bytes
    algorithm: str


@dataclass(frozen=True)
class Key:
    public: Public
    private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        message = pae(payload, payload_type)
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        return self.private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    def signed(self, payload: bytes, payload_type: str, signature: bytes) -> bool:
        message = pae(payload, payload_type)
        try:
            if isinstance(self.private, ed25519.Ed25519PrivateKey):
                self.private.public_key().verify(signature, message)
            else:
                self.private.public_key().verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def pae(payload: bytes, payload_type: str) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (
        *(len(payload_type), payload_type.encode()),
        *(len(payload), payload),
    )


def key(algorithm: str) -> Key:
    private = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
    )
    half = private.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = half.public_bytes(serialization.Encoding.DER, form)
    pem = half.public_bytes(serialization.Encoding.PEM, form)
    return Key(Public(hashlib.sha256(der).hexdigest(), pem, algorithm), private)

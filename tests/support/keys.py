"""Keys of the tests, and signatures by them."""

import functools
import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from device_runtime.bundle import signature
from device_runtime.bundle.signature import PublicKey, load_public_key, pae

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


class Key:
    """A key pair that is the same in each run.

    Attributes:
        private: the private key of `cryptography`.
        public: the public key as a device knows it.
    """

    def __init__(self, private: Private) -> None:
        self.private = private
        self.public: PublicKey = load_public_key(public_pem(private.public_key()))

    @property
    def id(self) -> str:
        return self.public.id

    @property
    def pem(self) -> bytes:
        return self.public.pem

    def sign(self, payload: bytes, payload_type: str = signature.MANIFEST_TYPE) -> bytes:
        message = pae(payload_type, payload)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
            return self.private.sign(message, algorithm)
        return self.private.sign(message)


def envelope(payload: bytes, *keys: Key) -> bytes:
    """A DSSE envelope with the signatures of some keys."""
    return signature.write(payload, {key.id: key.sign(payload) for key in keys})


@functools.cache
def ed25519_key(name: str = "builder") -> Key:
    seed = hashlib.sha256(name.encode()).digest()
    return Key(ed25519.Ed25519PrivateKey.from_private_bytes(seed))


@functools.cache
def p256_key(name: str = "builder") -> Key:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:31])
    return Key(ec.derive_private_key(seed, ec.SECP256R1()))


def public_pem(key: object) -> bytes:
    """A public key as PEM."""
    return key.public_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

"""Private keys: made, encrypted with a passphrase as PKCS#8 PEM, and unlocked to sign."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from device_runtime.bundle.signature import MANIFEST_TYPE, PublicKey, load_public_key, pae
from packager import console
from packager.errors import SigningError

Algorithm = Literal["ed25519", "ecdsa-p256"]

PASSPHRASE_VARIABLE = "EDGEPACK_PASSPHRASE_FILE"  # noqa: S105  (the name of a variable)
_MAX_BYTES = 64 << 10
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


@dataclass(frozen=True, kw_only=True)
class Signer:
    """An unlocked private key.

    Attributes:
        public: the public half.
        private: the key of `cryptography`.
    """

    public: PublicKey
    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    def sign(self, payload: bytes, payload_type: str = MANIFEST_TYPE) -> bytes:
        """Sign a payload and its type; the same payload always gets the same signature."""
        message = pae(payload_type, payload)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            # RFC 6979.
            algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
            return self.private.sign(message, algorithm)
        return self.private.sign(message)

    def encrypted(self, passphrase: bytes) -> bytes:
        """Return the private key as PEM, encrypted."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        )


def new(algorithm: Algorithm) -> Signer:
    """Make a key."""
    if algorithm == "ecdsa-p256":
        return _signer(ec.generate_private_key(ec.SECP256R1()))
    return _signer(ed25519.Ed25519PrivateKey.generate())


def unlock(path: Path, passphrase_file: Path | None) -> Signer:
    """Unlock the private key in a file.

    Args:
        path: an encrypted PKCS#8 file.
        passphrase_file: file with the passphrase; None to look into the file that an environment
            variable names, or to let the user type it.

    Raises:
        SigningError: the file cannot be read, the key cannot sign, or the passphrase is missing or
            wrong.
    """
    pem = content(path)
    if _ENCRYPTED not in pem:
        problem = "a private key that is not encrypted" if b"PRIVATE" in pem else "no private key"
        raise SigningError(
            f"{path} has {problem}",
            hint="Encrypt a private key with: openssl pkcs8 -topk8 -scrypt -in FILE -out ENCRYPTED",
        )
    try:
        private = serialization.load_pem_private_key(
            pem, passphrase(f"Passphrase for {path}", passphrase_file)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningError(
            f"{path} cannot be unlocked: the passphrase is wrong, or the file is damaged",
            hint=f"Give the passphrase with --passphrase-file FILE or {PASSPHRASE_VARIABLE}=FILE.",
        ) from None
    try:
        return _signer(private)
    except ValueError as error:
        raise SigningError(
            f"{path} has {error}", hint="Make a key with: edgepack keys generate NAME"
        ) from None


def passphrase(prompt: str, file: Path | None, *, confirm: bool = False) -> bytes:
    """Read a passphrase from a file, or the one that the environment names, or let it be typed.

    Args:
        prompt: words before the cursor.
        file: file with the passphrase, or None.
        confirm: let it be typed twice.

    Raises:
        SigningError: it is empty, the file cannot be read, or there is no terminal.
    """
    if file is None and os.environ.get(PASSPHRASE_VARIABLE):
        file = Path(os.environ[PASSPHRASE_VARIABLE])
    if file is not None:
        text = content(file).rstrip(b"\r\n")
    elif sys.stdin.isatty():
        text = console.secret(prompt, confirm=confirm).encode()
    else:
        raise SigningError(
            "a passphrase is needed, and there is no terminal to type it",
            hint=f"Use --passphrase-file FILE, or set {PASSPHRASE_VARIABLE}=FILE.",
        )
    if not text:
        raise SigningError(
            f"the passphrase{f' in {file}' if file else ''} is empty",
            hint="A passphrase has at least one character.",
        )
    return text


def content(path: Path) -> bytes:
    """Read a small file.

    Raises:
        SigningError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise SigningError(
            f"{path} cannot be read: {error.strerror}", hint="Check its path and its permissions."
        ) from None


def _signer(private: object) -> Signer:
    """Check the kind of a key; raises ValueError."""
    if not isinstance(private, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("a key that is neither Ed25519 nor ECDSA P-256")
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Signer(public=load_public_key(pem), private=private)

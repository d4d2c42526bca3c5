"""The keys of this host: NAME.key, the private half, and NAME.pem, the public one.

Their folder is `$EDGEPACK_KEYS`, else `~/.config/edgepack/keys` (XDG). Private halves are encrypted
with a passphrase. The first build makes the key `default`, and nobody may be there to type a
passphrase for it: a random one goes into `default.passphrase`, which the user alone may read. So
`default.key` alone can be copied and backed up as any other, and who wants to type the passphrase,
or to keep it elsewhere, moves it out of that file.
"""

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_runtime import durable
from device_runtime.bundle import signature
from device_runtime.bundle.signature import PublicKey, load_public_key
from device_runtime.bundle.source import Source
from device_runtime.errors import BundleError
from packager import cache, console, private_keys
from packager.errors import ResourceError, SigningError
from packager.private_keys import Algorithm, Signer
from packager.suggest import nearest

DEFAULT = "default"
FOLDER_VARIABLE = "EDGEPACK_KEYS"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """A key of this host.

    Attributes:
        name: name of the key.
        public: its public half.
        private_file: file of the private half, which may be missing.
    """

    name: str
    public: PublicKey
    private_file: Path


def folder() -> Path:
    """Return the folder of the keys, which need not exist yet."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgepack/keys"


def stored() -> list[StoredKey]:
    """List the keys of this host by name.

    Raises:
        SigningError: a file is not a public key.
    """
    return [
        StoredKey(name=path.stem, public=_public(path), private_file=path.with_suffix(".key"))
        for path in sorted(folder().glob("*.pem"))
    ]


def generate(name: str, algorithm: Algorithm, passphrase_file: Path | None) -> StoredKey:
    """Make a key pair.

    Raises:
        SigningError: the name is invalid or taken, or there is no passphrase.
        ResourceError: the folder cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise SigningError(
            f"{name!r} is not the name of a key",
            hint="Use up to 64 lower-case letters, digits, '.', '_' and '-'.",
        )
    _check_free(name)
    passphrase = private_keys.passphrase(
        f"Passphrase for the new key {name}", passphrase_file, confirm=True
    )
    with _locked() as around:
        _check_free(name)
        return _store(around, name, algorithm, passphrase)


def public(key: str) -> PublicKey:
    """Return the public key of a name, or from a PEM file.

    Raises:
        SigningError: there is no such key.
    """
    return _public(_path(key, ".pem"))


def unlock(keys: Iterable[str], passphrase_file: Path | None) -> tuple[Signer, ...]:
    """Unlock the private keys of some names or files; without any, `default`, made if missing.

    The passphrase is, in this order, in `passphrase_file`, in NAME.passphrase beside the key, in
    the file that an environment variable names, or typed.

    Raises:
        SigningError: there is no such key, or it cannot be unlocked.
        ResourceError: the folder cannot be written to.
    """
    signers = tuple(_unlock(key, passphrase_file) for key in keys)
    return signers or (_default_signer(passphrase_file),)


def _unlock(key: str, passphrase_file: Path | None) -> Signer:
    path = _path(key, ".key")
    beside = path.with_suffix(".passphrase")
    if passphrase_file is None and beside.is_file():
        passphrase_file = beside
    return private_keys.unlock(path, passphrase_file)


def _default_signer(passphrase_file: Path | None) -> Signer:
    with _locked() as around:
        names = sorted(path.stem for path in around.glob("*.key"))
        if not names:
            _check_free(DEFAULT)
            # 256 bits, as text that can be typed.
            passphrase = secrets.token_hex(32).encode()
            _write(around / f"{DEFAULT}.passphrase", passphrase + b"\n", 0o600)
            key = _store(around, DEFAULT, "ed25519", passphrase)
            console.note(
                f"Made the key {DEFAULT} ({key.public.id[:16]}), which signs this host's bundles: "
                f"{key.private_file}, its passphrase in {DEFAULT}.passphrase beside it. "
                "Keep a copy of both: devices trust it."
            )
        elif DEFAULT not in names:
            raise SigningError(
                f"this host has no key {DEFAULT}, but {', '.join(names)}",
                hint=f"Choose one of them, for instance {names[0]}, with --sign-key or --key.",
            )
        signer = _unlock(DEFAULT, passphrase_file)
        public_file = around / f"{DEFAULT}.pem"
        if not public_file.is_file():  # after a power cut
            _write(public_file, signer.public.pem, 0o644)
        return signer


def envelope(payload: bytes, signers: Iterable[Signer], existing: bytes = b"") -> bytes:
    """Sign a payload; return a DSSE envelope, empty without any signature.

    Args:
        payload: bytes of a manifest.
        signers: keys to sign with.
        existing: envelope of the same payload, whose signatures are kept; may be empty.

    Raises:
        BundleError: the existing envelope is not valid.
        SigningError: there would be too many signatures.
    """
    signatures = signature.read(existing, payload) if existing else {}
    signatures |= {signer.public.id: signer.sign(payload) for signer in signers}
    if len(signatures) > signature.MAX_SIGNATURES:
        raise SigningError(
            f"a bundle has at most {signature.MAX_SIGNATURES} signatures",
            hint="Build it again, and sign it with fewer keys.",
        )
    return signature.write(payload, signatures) if signatures else b""


def signatures(source: Source) -> dict[str, str | None]:
    """Return the ids of the keys that are said to have signed a bundle, with their names here.

    Raises:
        BundleError: the signature by a key of this host is wrong.
    """
    if not source.signature:
        return {}
    names = {key.public.id: key.name for key in _signing(source)}
    ids = signature.read(source.signature, source.manifest_bytes)
    return {key_id: names.get(key_id) for key_id in ids}


def signer_keys(source: Source) -> tuple[bytes, ...]:
    """Return the PEMs of the keys of this host that signed a bundle: those its device can trust.

    Raises:
        BundleError: the signature by a key of this host is wrong.
    """
    return tuple(key.public.pem for key in _signing(source))


def require(source: Source, keys: Sequence[PublicKey]) -> None:
    """Check that all of some keys signed a bundle.

    Raises:
        BundleError: one of them did not, or its signature is wrong.
    """
    ids: frozenset[str] = frozenset()
    if source.signature:
        ids = signature.signers(source.signature, source.manifest_bytes, keys)
    missing = [key.id[:16] for key in keys if key.id not in ids]
    if missing:
        raise BundleError(
            f"the bundle is not signed with {', '.join(missing)}",
            hint="Sign it with: edgepack sign BUNDLE --key KEY",
        )


def _signing(source: Source) -> list[StoredKey]:
    if not source.signature:
        return []
    keys = stored()
    ids = signature.signers(source.signature, source.manifest_bytes, [key.public for key in keys])
    return [key for key in keys if key.public.id in ids]


def _path(key: str, suffix: str) -> Path:
    """Find the file of a key; a name comes before a file of the same name."""
    if _NAME.fullmatch(key) and (folder() / f"{key}{suffix}").is_file():
        return folder() / f"{key}{suffix}"
    if Path(key).is_file():
        return Path(key)
    names = sorted(path.stem for path in folder().glob(f"*{suffix}"))
    raise SigningError(
        f"{key} is neither a key of this host nor a file{nearest(key, names)}",
        hint="List the keys with: edgepack keys list. Make one with: edgepack keys generate NAME",
    )


def _public(path: Path) -> PublicKey:
    try:
        return load_public_key(private_keys.content(path))
    except ValueError as error:
        raise SigningError(
            f"{path} is {error}", hint="Get the public key with: edgepack keys export NAME"
        ) from None


def _check_free(name: str) -> None:
    if any((folder() / f"{name}{suffix}").exists() for suffix in (".key", ".pem")):
        raise SigningError(
            f"there is a key {name} already", hint=f"Choose another name; it is in {folder()}."
        )


def _store(around: Path, name: str, algorithm: Algorithm, passphrase: bytes) -> StoredKey:
    """Make a key pair and write it; the public half, which makes it known, last."""
    signer = private_keys.new(algorithm)
    key = StoredKey(name=name, public=signer.public, private_file=around / f"{name}.key")
    _write(key.private_file, signer.encrypted(passphrase), 0o600)
    _write(around / f"{name}.pem", key.public.pem, 0o644)
    return key


@contextmanager
def _locked() -> Iterator[Path]:
    """Hold the lock of the keys' folder, created if missing: two first builds make one key."""
    around = folder()
    try:
        around.mkdir(mode=0o700, parents=True, exist_ok=True)
        with cache.locked(around / ".lock"):
            yield around
    except OSError as error:
        raise ResourceError(
            f"cannot write to {around}: {error.strerror}",
            hint=f"Set {FOLDER_VARIABLE} to another folder, or build with --no-sign.",
        ) from None


def _write(path: Path, content: bytes, mode: int) -> None:
    with durable.written_aside(path, mode) as file:
        file.write(content)

"""The keys that a device trusts: `/etc/edgepack/keys.d`.

`*.pem` there are public keys. `revoked` has the ids of keys that are not trusted whatever files
there are, one a line, with comments from `#` to the end of a line. An empty keyring trusts nobody;
the first installation may fill it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from device_runtime.bundle.manifest import Trust
from device_runtime.bundle.release import Release
from device_runtime.bundle.signature import (
    MAX_KEY_BYTES,
    PublicKey,
    is_key_id,
    load_public_key,
    read,
    signers,
)
from device_runtime.bundle.source import Source
from device_runtime.durable import aside_name
from device_runtime.errors import InstallError
from device_runtime.update import config
from device_runtime.update.config import UpdateConfig
from device_runtime.update.target import Target

KEYS = "etc/edgepack/keys.d"
REVOKED = "revoked"
MAX_KEYS = 256
_MAX_REVOKED_BYTES = 1 << 20

Standing = Literal["trusted", "not trusted", "revoked"]


class Keyring:
    """The trusted keys of a device.

    Attributes:
        keys: the keys in its files, revoked ones included.
        revoked: ids of the revoked keys.
        first: keys to trust from the first installation on; empty if the device has keys.
    """

    def __init__(self, target: Target, first: Iterable[bytes] = ()) -> None:
        """Read the keyring.

        Args:
            target: the device's root file system.
            first: PEMs of keys to trust if the device has no keys yet.

        Raises:
            InstallError: a file of the keyring cannot be read, or a key is not valid.
        """
        self._target = target
        self.keys = _read_keys(target)
        self.revoked = _read_revoked(target)
        self.first = () if self.keys else tuple(_load(pem, "the key to trust") for pem in first)

    @property
    def trusted(self) -> tuple[PublicKey, ...]:
        """The keys whose signatures count, once each."""
        usable = {key.id: key for key in (*self.keys, *self.first)}
        return tuple(key for key in usable.values() if key.id not in self.revoked)

    def signers(self, signed: Source | Release) -> frozenset[str]:
        """Return the ids of the trusted keys that signed a bundle or a release.

        Raises:
            BundleError: its signature is malformed, or wrong.
        """
        if not signed.signature:
            return frozenset()
        return signers(signed.signature, signed.manifest_bytes, self.trusted)

    def signatures(self, signed: Source | Release) -> dict[str, Standing]:
        """Return the standing of each key that is said to have signed a bundle or a release.

        Raises:
            BundleError: the signature is malformed, or one by a trusted key is wrong.
        """
        if not signed.signature:
            return {}
        trusted = self.signers(signed)
        states: dict[str, Standing] = {}
        for key_id in read(signed.signature, signed.manifest_bytes):
            unknown: Standing = "revoked" if key_id in self.revoked else "not trusted"
            states[key_id] = "trusted" if key_id in trusted else unknown
        return states

    def check(
        self, source: Source | Release, rules: UpdateConfig, *, allow_unsigned: bool = False
    ) -> None:
        """Refuse a bundle that too few trusted keys have signed.

        Without these signatures a bundle cannot change the keyring, whatever else is allowed.

        Args:
            source: the bundle, or a release.
            rules: the device's rules for updates.
            allow_unsigned: allow this bundle to be unsigned, whatever the rules say.

        Raises:
            BundleError: the signature is malformed, or wrong.
            InstallError: the signature is missing, or by too few trusted keys.
        """
        if len(self.signers(source)) >= rules.threshold:
            return
        state = describe(self.signatures(source))
        if source.manifest.trust != Trust():
            raise InstallError(
                "this bundle changes the device's keys, so it must be signed with "
                f"{_count(rules.threshold)} that the device trusts; it is {state}",
                hint="Sign it with a key that the device trusts: edgepack sign BUNDLE --key KEY",
            )
        if allow_unsigned or rules.allow_unsigned:
            return
        if not self.keys and not self.first:
            raise InstallError(
                f"this bundle is {state}, and the device trusts no key yet",
                hint="Sign it with edgepack sign, and give the device the public key: with --key "
                f"FILE of edgepack-runtime install, or as a file in /{KEYS}/.",
            )
        raise InstallError(
            f"this bundle must be signed with {_count(rules.threshold)} that the device trusts; "
            f"it is {state}",
            hint="Sign it with a key that the device trusts: edgepack sign BUNDLE --key KEY. "
            f"The device's keys are in /{KEYS}/, its rules in /{config.FILE}.",
        )

    def keep_first(self) -> None:
        """Store the keys of the first installation: all or none of them, if the folder is new.

        Raises:
            OSError: the target cannot be written to.
        """
        if not self.first:
            return
        around, _, name = KEYS.rpartition("/")
        with self._target.folder(around, make=True) as folder:
            if folder.stat(name) is None:
                aside = aside_name(name)
                with folder.make_folder(aside) as keys:
                    for key in self.first:
                        keys.write(f"{key.id}.pem", key.pem)
                folder.rename(aside, name)
                self.keys = self.first
        for key in self.first:
            self.add(key.pem)

    def require(self, pems: Iterable[bytes]) -> None:
        """Refuse keys that a user wants trusted and the device, which has others, does not trust.

        Raises:
            InstallError: there is such a key.
        """
        trusted = {key.id for key in self.trusted}
        for pem in pems:
            key = _load(pem, "the given key")
            if key.id in self.revoked:
                raise InstallError(
                    f"key {key.id[:16]} is revoked on this device",
                    hint=f"Sign the bundle with another key; see /{KEYS}/{REVOKED}.",
                )
            if self.keys and key.id not in trusted:
                raise InstallError(
                    f"this device trusts other keys already, so it does not take key {key.id[:16]}",
                    hint="Build a bundle that adds it, signed with a key that the device trusts: "
                    f"edgepack build --trust-key FILE. Or copy the file to /{KEYS}/ yourself.",
                )

    def add(self, pem: bytes) -> None:
        """Trust a key; one that is revoked stays so.

        Raises:
            InstallError: it is not a key.
            OSError: the target cannot be written to.
        """
        key = _load(pem, "the key to trust")
        if key.id in {known.id for known in self.keys}:
            return
        self._write(f"{key.id}.pem", key.pem)
        self.keys = (*self.keys, key)

    def revoke(self, *key_ids: str) -> None:
        """Stop trusting keys for good, in one step.

        Raises:
            OSError: the target cannot be written to.
        """
        new = [key_id for key_id in key_ids if key_id not in self.revoked]
        if not new:
            return
        text = self._target.settings(f"{KEYS}/{REVOKED}", _MAX_REVOKED_BYTES)
        if text and not text.endswith("\n"):
            text += "\n"
        self._write(REVOKED, (text + "".join(f"{key_id}\n" for key_id in new)).encode())
        self.revoked |= set(new)

    def has(self, trust: Trust) -> bool:
        """Return whether all changes of a release have been made.

        Raises:
            InstallError: a key is not valid.
        """
        added = {_load(pem.encode(), "the key to trust").id for pem in trust.add}
        return added <= {key.id for key in self.keys} and self.revoked.issuperset(trust.revoke)

    def apply(self, trust: Trust) -> None:
        """Make the changes of a release that was installed with enough signatures and has started.

        Raises:
            InstallError: a key is not valid.
            OSError: the target cannot be written to.
        """
        for pem in trust.add:
            self.add(pem.encode())
        self.revoke(*trust.revoke)

    def _write(self, name: str, content: bytes) -> None:
        with self._target.folder(KEYS, make=True) as folder:
            folder.write(name, content)


def describe(signatures: Mapping[str, Standing]) -> str:
    """Describe the signatures of a bundle in words."""
    if not signatures:
        return "not signed"
    return "signed with " + ", ".join(f"{key[:16]} ({state})" for key, state in signatures.items())


def _read_keys(target: Target) -> tuple[PublicKey, ...]:
    try:
        folder = target.folder(KEYS)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _unreadable(target.root / KEYS, error) from None
    keys = []
    with folder:
        names = sorted(name for name in folder.names() if name.endswith(".pem"))
        if len(names) > MAX_KEYS:
            raise InstallError(
                f"{target.root / KEYS} has more than {MAX_KEYS} keys", hint="Remove some of them."
            )
        for name in names:
            where = target.root / KEYS / name
            try:
                with folder.file(name) as file:
                    keys.append(_load(file.read(MAX_KEY_BYTES + 1), str(where)))
            except OSError as error:
                raise _unreadable(where, error) from None
    return tuple(keys)


def _read_revoked(target: Target) -> frozenset[str]:
    ids = set()
    text = target.settings(f"{KEYS}/{REVOKED}", _MAX_REVOKED_BYTES)
    for number, line in enumerate(text.splitlines(), 1):
        key_id = line.partition("#")[0].strip()
        if key_id and not is_key_id(key_id):
            raise InstallError(
                f"{target.root / KEYS / REVOKED}: line {number} is not a key id",
                hint="A key id is 64 hexadecimal digits; edgepack keys list shows those of keys.",
            )
        ids.add(key_id)
    return frozenset(ids - {""})


def _unreadable(path: Path, error: OSError) -> InstallError:
    return InstallError(
        f"{path} cannot be read: {error.strerror}", hint="Correct or remove that entry."
    )


def _load(pem: bytes, where: str) -> PublicKey:
    try:
        return load_public_key(pem)
    except ValueError as error:
        raise InstallError(
            f"{where} is {error}",
            hint="Use a public key from: edgepack keys export NAME",
        ) from None


def _count(threshold: int) -> str:
    return "a key" if threshold == 1 else f"{threshold} keys"

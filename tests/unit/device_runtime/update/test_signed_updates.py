"""A device installs what the keys that it trusts have signed, and nothing else."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_runtime.bundle.manifest import SIGNATURE_NAME, Trust
from device_runtime.bundle.reader import open_bundle
from device_runtime.bundle.release import open_release
from device_runtime.doctor import signature
from device_runtime.durable import Folder
from device_runtime.errors import BundleError, InstallError
from device_runtime.update import switch
from device_runtime.update.config import UpdateConfig
from device_runtime.update.install import Policy, install
from device_runtime.update.keyring import Keyring
from device_runtime.update.target import Target
from tests.support.bundles import Draft, draft, tar
from tests.support.commands import edgepack_runtime
from tests.support.commands import refused as refused_command
from tests.support.keys import Key, ed25519_key, p256_key
from tests.support.targets import ELF_X86_64, make_root

BUILDER = ed25519_key()
SECOND = p256_key("second")
THIRD = ed25519_key("third")
STRANGER = p256_key("stranger")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device that trusts the builder's key."""
    root = make_root(tmp_path / "root", ELF_X86_64, allow_unsigned=False)
    trust(root, BUILDER)
    return root


def trust(root: Path, *keys: Key) -> None:
    folder = root / "etc/edgepack/keys.d"
    folder.mkdir(exist_ok=True)
    for key in keys:
        (folder / f"{key.id[:8]}.pem").write_bytes(key.pem)


def rules(root: Path, text: str) -> None:
    (root / "etc/edgepack/update.toml").write_text(text)


def signed(folder: Path, *keys: Key, **changes: object) -> Path:
    return draft().replaced(**changes).signed(*keys).write(folder / "b.epk")


def current(root: Path) -> Path:
    return root / "var/lib/edgepack/current"


def refused(
    bundle: Path,
    root: Path,
    match: str,
    policy: Policy = Policy(),  # noqa: B008  (it is frozen)
    kind: type[Exception] = InstallError,
) -> None:
    """Nothing of the bundle is staged, and no key is taken."""
    before = sorted(root.rglob("*"))
    with pytest.raises(kind, match=match) as caught:
        install(bundle, root, policy=policy)
    assert getattr(caught.value, "hint")  # noqa: B009
    assert sorted(root.rglob("*")) == before


def test_signed_with_a_trusted_key(root: Path, tmp_path: Path) -> None:
    install(signed(tmp_path, BUILDER), root).verify()
    install(signed(tmp_path, STRANGER, BUILDER, version="2.0.0"), root).verify()


def test_not_signed(root: Path, tmp_path: Path) -> None:
    refused(signed(tmp_path), root, "must be signed with a key .* not signed")
    install(signed(tmp_path), root, policy=Policy(unsigned=True))


def test_signed_with_an_unknown_key(root: Path, tmp_path: Path) -> None:
    bundle = signed(tmp_path, STRANGER)
    refused(bundle, root, f"signed with {STRANGER.id[:16]} .not trusted")
    install(bundle, root, policy=Policy(unsigned=True))


def test_the_devices_own_rules_may_allow_unsigned_bundles(root: Path, tmp_path: Path) -> None:
    rules(root, "allow_unsigned = true\n")
    install(signed(tmp_path), root)
    install(signed(tmp_path, STRANGER), root)


def test_revoked_key(root: Path, tmp_path: Path) -> None:
    """Its file may still be there."""
    (root / "etc/edgepack/keys.d/revoked").write_text(f"# lost\n\n  {BUILDER.id} # laptop\n")
    bundle = signed(tmp_path, BUILDER)
    refused(bundle, root, "revoked")
    trust(root, SECOND)
    refused(bundle, root, "revoked")
    install(signed(tmp_path, SECOND), root)


def test_revoked_key_is_not_taken_by_a_device_without_keys(root: Path, tmp_path: Path) -> None:
    (root / f"etc/edgepack/keys.d/{BUILDER.id[:8]}.pem").unlink()
    (root / "etc/edgepack/keys.d/revoked").write_text(BUILDER.id)
    refused(signed(tmp_path, BUILDER), root, "revoked", Policy(keys=(BUILDER.pem,)))


@pytest.mark.parametrize(
    ("keys", "enough"),
    [
        ((BUILDER,), False),
        ((BUILDER, STRANGER), False),
        ((BUILDER, SECOND), True),
        ((THIRD, SECOND), True),
        ((BUILDER, SECOND, THIRD), True),
        ((), False),
    ],
)
def test_threshold_of_two_of_three(
    root: Path, tmp_path: Path, keys: tuple[Key, ...], enough: bool
) -> None:
    trust(root, SECOND, THIRD)
    rules(root, "threshold = 2\n")
    if enough:
        install(signed(tmp_path, *keys), root)
    else:
        refused(signed(tmp_path, *keys), root, "must be signed with 2 keys")


def test_two_files_of_one_key_are_one_key(root: Path, tmp_path: Path) -> None:
    (root / "etc/edgepack/keys.d/copy.pem").write_bytes(BUILDER.pem)
    rules(root, "threshold = 2\n")
    refused(signed(tmp_path, BUILDER), root, "must be signed with 2 keys")


def test_wrong_signature_of_a_trusted_key_is_never_taken(root: Path, tmp_path: Path) -> None:
    """Neither where unsigned bundles are allowed, nor beside another key's good signature."""
    trust(root, SECOND)
    bundle = signed(tmp_path, BUILDER, SECOND)
    data = bundle.read_bytes()
    with open_bundle(bundle) as opened:
        document = json.loads(opened.signature)
    good = document["signatures"][0]["sig"].encode()
    bundle.write_bytes(data.replace(good, b"AAAA" + good[4:]))
    refused(bundle, root, "is wrong", Policy(unsigned=True), BundleError)


def test_garbage_in_the_place_of_a_signature(root: Path, tmp_path: Path) -> None:
    """It is noticed wherever the bundle is opened, by those as well who know no key."""
    bundle = tmp_path / "b.epk"
    for garbage in (b"garbage", b"{}", b"\0"):
        members = dict(draft().members()) | {SIGNATURE_NAME: garbage}
        bundle.write_bytes(tar(list(members.items())))
        refused(bundle, root, "the signature is", Policy(unsigned=True), BundleError)
        refused_command(edgepack_runtime("verify", bundle), 7, "the signature is")


def test_every_byte_of_the_signature_in_the_bundle_matters(root: Path, tmp_path: Path) -> None:
    bundle = signed(tmp_path, BUILDER)
    data = bundle.read_bytes()
    with open_bundle(bundle) as opened:
        start, length = data.index(opened.signature), len(opened.signature)
    # A tenth of the payload's base64 is enough: it is compared as a whole.
    ends = {*range(200), *range(200, length - 200, 10), *range(length - 200, length)}
    keyring, strict = Keyring(Target(root)), UpdateConfig()
    for position in sorted(ends):
        broken = bytearray(data)
        broken[start + position] ^= 1 << position % 8
        bundle.write_bytes(broken)
        with pytest.raises((BundleError, InstallError)) as caught, open_bundle(bundle) as opened:
            keyring.check(opened, strict)
        assert "\n" not in str(caught.value)


def test_first_installation_brings_the_key(root: Path, tmp_path: Path) -> None:
    (root / f"etc/edgepack/keys.d/{BUILDER.id[:8]}.pem").unlink()
    bundle = signed(tmp_path, BUILDER)
    refused(bundle, root, "trusts no key yet")
    refused(bundle, root, "not trusted", Policy(keys=(STRANGER.pem,)))
    before = os.umask(0o077)
    try:
        install(bundle, root, policy=Policy(keys=(BUILDER.pem,)))
    finally:
        os.umask(before)
    file = root / f"etc/edgepack/keys.d/{BUILDER.id}.pem"
    assert file.read_bytes() == BUILDER.pem
    assert file.stat().st_mode & 0o777 == 0o644
    install(signed(tmp_path, BUILDER, version="2.0.0"), root)


def test_damaged_first_bundle_brings_no_key(root: Path, tmp_path: Path) -> None:
    (root / f"etc/edgepack/keys.d/{BUILDER.id[:8]}.pem").unlink()
    bundle = signed(tmp_path, BUILDER)
    data = bytearray(bundle.read_bytes())
    data[-1500] ^= 1
    bundle.write_bytes(data)
    with pytest.raises(BundleError):
        install(bundle, root, policy=Policy(keys=(BUILDER.pem,)))
    assert not Keyring(Target(root)).keys


def test_a_later_installation_brings_no_key(root: Path, tmp_path: Path) -> None:
    refused(signed(tmp_path, STRANGER), root, "not trusted", Policy(keys=(STRANGER.pem,)))
    install(signed(tmp_path, BUILDER), root, policy=Policy(keys=(STRANGER.pem,)))
    assert [key.id for key in Keyring(Target(root)).keys] == [BUILDER.id]


def test_same_release_with_another_signature(root: Path, tmp_path: Path) -> None:
    trust(root, SECOND)
    release = install(signed(tmp_path), root, policy=Policy(unsigned=True))
    assert release.signature == b""
    for keys in ((BUILDER,), (BUILDER, SECOND)):
        bundle = signed(tmp_path, *keys)
        assert install(bundle, root).digest == release.digest
        with open_bundle(bundle) as opened:
            assert (release.folder / SIGNATURE_NAME).read_bytes() == opened.signature
        assert (release.folder / SIGNATURE_NAME).stat().st_mode & 0o777 == 0o644
        release.verify()
    for others in ((), (STRANGER,)):
        install(signed(tmp_path, *others), root, policy=Policy(unsigned=True))
        assert Keyring(Target(root)).signers(release) == {BUILDER.id, SECOND.id}


def test_signature_of_an_installed_release_is_checked(root: Path, tmp_path: Path) -> None:
    release = install(signed(tmp_path, BUILDER), root)
    other = draft().replaced(version="2.0.0").signed(BUILDER).members()
    (release.folder / SIGNATURE_NAME).write_bytes(dict(other)[SIGNATURE_NAME])
    with pytest.raises(BundleError, match="damaged, or for another manifest"):
        release.verify()


def test_release_on_the_device_is_not_a_way_around_its_signature(
    root: Path, tmp_path: Path
) -> None:
    """Its folder reads as a bundle, whoever revoked its key or took the signature away."""
    release = install(signed(tmp_path, BUILDER), root)
    assert install(release.folder, root).digest == release.digest
    revoked = root / "etc/edgepack/keys.d/revoked"
    revoked.write_text(BUILDER.id)
    refused(release.folder, root, "revoked")
    revoked.unlink()
    (release.folder / SIGNATURE_NAME).write_bytes(b"")
    refused(release.folder, root, "not signed")
    (release.folder / SIGNATURE_NAME).unlink()
    refused(release.folder, root, "is not a bundle", kind=BundleError)


def rotation(*keys: Key) -> Draft:
    change = Trust(add=(SECOND.pem.decode(),), revoke=(BUILDER.id,))
    return draft().replaced(version="2.0.0", trust=change).signed(*keys)


def test_rotated_key(root: Path, tmp_path: Path) -> None:
    """Trusted once the release that brings it has started, and from then on alone."""
    release = install(rotation(BUILDER).write(tmp_path / "r.epk"), root)
    assert [key.id for key in Keyring(Target(root)).trusted] == [BUILDER.id]
    for _ in range(2):
        Keyring(Target(root)).apply(release.manifest.trust)
    assert [key.id for key in Keyring(Target(root)).trusted] == [SECOND.id]
    assert (root / "etc/edgepack/keys.d/revoked").read_text() == f"{BUILDER.id}\n"
    refused(signed(tmp_path, BUILDER), root, "revoked")
    install(signed(tmp_path, SECOND, version="3.0.0"), root)


def test_key_that_is_revoked_while_the_installation_waits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the guard, with the lock that the installation needs."""
    alone = switch.alone

    @contextmanager
    def after_the_guard(state: Folder) -> Iterator[None]:
        with alone(state):
            Keyring(Target(root)).revoke(BUILDER.id)
        with alone(state):
            yield

    monkeypatch.setattr(switch, "alone", after_the_guard)
    with pytest.raises(InstallError, match="revoked"):
        install(signed(tmp_path, BUILDER), root)
    assert not current(root).is_symlink()


@pytest.mark.parametrize("keys", [(), (STRANGER,)])
def test_only_signed_bundles_change_the_keyring(
    root: Path, tmp_path: Path, keys: tuple[Key, ...]
) -> None:
    rules(root, "allow_unsigned = true\n")
    bundle = rotation(*keys).write(tmp_path / "r.epk")
    refused(bundle, root, "changes the device's keys", Policy(unsigned=True))


@pytest.mark.parametrize(
    ("trust", "says"),
    [
        (Trust(add=("-----BEGIN RSA",)), r"trust.add\[0\] is not a public key"),
        (Trust(add=("é",)), r"trust.add\[0\] is not a public key"),
        (Trust(add=(BUILDER.pem.decode(),) * 17), "length <= 16"),
        (Trust(revoke=("0" * 64,) * 17), "length <= 16"),
        (Trust(revoke=("A" * 64,)), "matching regex"),
    ],
)
def test_nonsense_as_a_change_of_the_keyring(tmp_path: Path, trust: Trust, says: str) -> None:
    path = draft().replaced(trust=trust).write(tmp_path / "b.epk")
    with pytest.raises(BundleError, match=says), open_bundle(path):
        pass


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.pem", b"", "x.pem is not a public key"),
        ("x.pem", b"\xff" * 10_000, "x.pem is not a public key"),
        ("revoked", b"abc\n", "line 1 is not a key id"),
        ("revoked", b"\xff", "not UTF-8"),
        ("revoked", b" " * (1 << 20) + b" ", "too large"),
    ],
)
def test_keyring_that_cannot_be_understood_trusts_nothing(
    root: Path, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    """A key that was meant to be revoked must not count because of a slip of the pen."""
    (root / "etc/edgepack/keys.d" / name).write_bytes(content)
    refused(signed(tmp_path, BUILDER), root, says)


def test_hostile_entries_of_the_keyring(root: Path, tmp_path: Path) -> None:
    """On a card, links lead below its root; what is not a plain file is refused at once."""
    bundle = signed(tmp_path, STRANGER)
    outside = tmp_path / "stranger.pem"
    outside.write_bytes(STRANGER.pem)
    folder = root / "etc/edgepack/keys.d"
    (folder / "x.pem").symlink_to(outside)
    refused(bundle, root, "x.pem cannot be read")
    (folder / "x.pem").unlink()
    os.mkfifo(folder / "x.pem")
    refused(bundle, root, "x.pem cannot be read")
    (folder / "x.pem").unlink()
    (folder / "revoked").mkdir()
    refused(bundle, root, "revoked cannot be read")
    (folder / "revoked").rmdir()
    elsewhere = tmp_path / "keys"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    refused(bundle, root, "trusts no key yet")
    folder.unlink()
    folder.write_text("")
    refused(bundle, root, "keys.d cannot be read")


def test_the_devices_own_command_takes_a_key_once(root: Path, tmp_path: Path) -> None:
    (root / f"etc/edgepack/keys.d/{BUILDER.id[:8]}.pem").unlink()
    keys = {key: tmp_path / f"{key.id[:4]}.pem" for key in (BUILDER, SECOND)}
    for key, path in keys.items():
        path.write_bytes(key.pem)
    first = signed(tmp_path, BUILDER)
    at = ("--root", root)
    refused_command(edgepack_runtime("install", first, *at), 8, "trusts no key yet")
    for _ in range(2):
        done = edgepack_runtime("install", first, *at, "--key", keys[BUILDER])
        assert done.status == 0, done.err
    other = draft().replaced(version="2.0.0").signed(SECOND).write(tmp_path / "2.epk")
    refused_command(edgepack_runtime("install", other, *at), 8, "not trusted")
    refused_command(
        edgepack_runtime("install", other, *at, "--key", keys[SECOND]),
        8,
        "trusts other keys already",
        "--trust-key",
    )
    keys[SECOND].write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    outcome = edgepack_runtime("install", other, *at, "--key", keys[SECOND])
    refused_command(outcome, 8, "a private key")
    assert "secret" not in outcome.err + outcome.out


def test_verify_and_doctor_say_who_signed(root: Path, tmp_path: Path) -> None:
    bundle = signed(tmp_path, BUILDER, STRANGER)
    done = edgepack_runtime("verify", bundle, "--json")
    assert json.loads(done.out)["signatures"] == {
        BUILDER.id: "not trusted",
        STRANGER.id: "not trusted",
    }
    assert "not signed" in edgepack_runtime("verify", draft().write(tmp_path / "u.epk")).out
    install(bundle, root)
    release = open_release(current(root))
    check = signature(release, Target(root))
    assert check.status == "ok"
    assert f"{BUILDER.id[:16]} (trusted), {STRANGER.id[:16]} (not trusted)" in check.found
    (root / "etc/edgepack/keys.d/revoked").write_text(BUILDER.id)
    check = signature(release, Target(root))
    assert (check.status, "revoked" in check.found) == ("warn", True)
    assert check.advice

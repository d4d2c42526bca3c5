"""Keys of the host: made, locked, used and shown as a user meets them."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from device_runtime.bundle.reader import open_bundle
from device_runtime.errors import BundleError
from device_runtime.update.keyring import Keyring
from device_runtime.update.target import Target
from packager import bundle as bundles
from packager import console, keys, private_keys
from packager.errors import ResourceError, SigningError
from tests.support.bundles import draft
from tests.support.commands import edgepack, refused
from tests.support.keys import ed25519_key
from tests.support.targets import ELF_X86_64, flash, make_root

SECRET = "correct horse battery"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of keys for one test alone; nothing has made it yet."""
    monkeypatch.setenv(keys.FOLDER_VARIABLE, str(tmp_path / "config/keys"))
    monkeypatch.delenv(private_keys.PASSPHRASE_VARIABLE, raising=False)
    return tmp_path / "config/keys"


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    (tmp_path / "passphrase").write_text(SECRET + "\n")
    return tmp_path / "passphrase"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "b.epk")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256"])
def test_key_pair_as_a_user_makes_it(
    folder: Path, passphrase: Path, bundle: Path, algorithm: str
) -> None:
    before = os.umask(0)
    try:
        made = edgepack(
            *("keys", "generate", "mine", "--algorithm", algorithm, "--json"),
            *("--passphrase-file", passphrase),
        )
    finally:
        os.umask(before)
    assert made.status == 0, made.err
    key = json.loads(made.out)
    assert (mode(folder), mode(folder / "mine.key")) == (0o700, 0o600)
    assert b"ENCRYPTED PRIVATE KEY" in (folder / "mine.key").read_bytes()
    assert json.loads(edgepack("keys", "list", "--json").out) == [key]
    assert (key["algorithm"], key["private_file"]) == (algorithm, str(folder / "mine.key"))
    assert edgepack("keys", "export", "mine").out == (folder / "mine.pem").read_text()
    done = edgepack("sign", bundle, "--key", "mine", "--passphrase-file", passphrase, "--json")
    assert json.loads(done.out)["signed_with"] == [key["id"]]
    verified = edgepack("verify", bundle, "--key", "mine", "--json")
    assert json.loads(verified.out)["signatures"] == {key["id"]: "mine"}
    assert "mine" in edgepack("inspect", bundle).out
    for outcome in (made, done, verified):
        assert SECRET not in outcome.out + outcome.err


def test_exported_key_is_a_file_for_verify(passphrase: Path, bundle: Path, tmp_path: Path) -> None:
    key = keys.generate("mine", "ed25519", passphrase)
    pem = tmp_path / "out/mine.pem"
    assert edgepack("keys", "export", "mine", "-o", pem).status == 0
    assert pem.read_bytes() == key.public.pem
    refused(edgepack("verify", bundle, "--key", pem), 7, "is not signed with")
    bundles.sign(bundle, keys.unlock(["mine"], passphrase))
    assert edgepack("verify", bundle, "--key", pem).status == 0
    other = tmp_path / "other.pem"
    other.write_bytes(ed25519_key().pem)
    outcome = edgepack("verify", bundle, "--key", pem, "--key", other)
    refused(outcome, 7, f"is not signed with {ed25519_key().id[:16]}")
    assert outcome.err.count("\n") == 2


def test_verify_says_who_signed(bundle: Path, tmp_path: Path) -> None:
    assert "not signed" in edgepack("verify", bundle).out
    draft().signed(ed25519_key()).write(bundle)
    stranger = f"{ed25519_key().id[:16]}, which is not a key of this host"
    assert stranger in edgepack("verify", bundle).out
    assert stranger in edgepack("inspect", bundle).out


def test_signing_changes_nothing_but_the_signature(bundle: Path, passphrase: Path) -> None:
    for name, algorithm in (("a", "ed25519"), ("b", "ecdsa-p256")):
        keys.generate(name, algorithm, passphrase)  # type: ignore[arg-type]
    unsigned = bundle.read_bytes()
    signers = keys.unlock(["a", "b"], passphrase)
    bundles.sign(bundle, signers[:1])
    bundles.sign(bundle, signers[1:])
    both = bundle.read_bytes()
    with open_bundle(bundle) as opened:
        opened.verify()
        assert keys.signer_keys(opened) == tuple(signer.public.pem for signer in signers)
        signature = opened.signature
    again = bundle.stat().st_ino
    bundles.sign(bundle, signers)
    assert (bundle.read_bytes(), bundle.stat().st_ino) == (both, again)
    # The head up to the signature's header, and all that follows the signature.
    start = both.index(signature)
    assert both[: start - 512] == unsigned[: start - 512]
    assert both[start + len(signature) :].lstrip(b"\0") == unsigned[start:]
    assert list(bundle.parent.glob(".*")) == []


def test_damaged_bundle_is_not_signed(bundle: Path, passphrase: Path) -> None:
    keys.generate("a", "ed25519", passphrase)
    data = bundle.read_bytes()
    bundle.write_bytes(data[:-600])
    with pytest.raises(BundleError, match="truncated"):
        bundles.sign(bundle, keys.unlock(["a"], passphrase))
    assert bundle.read_bytes() == data[:-600]


def test_at_most_sixteen_signatures(bundle: Path) -> None:
    signers = [private_keys.new("ed25519") for _ in range(17)]
    bundles.sign(bundle, signers[:16])
    with pytest.raises(SigningError, match="at most 16"):
        bundles.sign(bundle, signers[16:])


def test_first_build_makes_the_key_default(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (signer,) = keys.unlock([], None)
    (key,) = keys.stored()
    assert (key.name, key.public.id) == ("default", signer.public.id)
    assert {path.name: mode(path) for path in folder.glob("[!.]*")} == {
        "default.key": 0o600,
        "default.passphrase": 0o600,
        "default.pem": 0o644,
    }
    shown = capsys.readouterr().err
    assert str(folder / "default.key") in shown
    assert (folder / "default.passphrase").read_text().strip() not in shown
    assert keys.unlock([], None)[0].public.id == signer.public.id
    assert capsys.readouterr().err == ""


def test_two_first_builds_make_one_key(folder: Path) -> None:
    ids: list[str] = []
    builds = [
        threading.Thread(target=lambda: ids.append(keys.unlock([], None)[0].public.id))
        for _ in range(4)
    ]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert len(ids) == 4
    assert len(set(ids)) == 1


def test_public_half_that_a_power_cut_took_is_written_again(folder: Path) -> None:
    (signer,) = keys.unlock([], None)
    (folder / "default.pem").unlink()
    assert keys.unlock([], None)[0].public.id == signer.public.id
    assert (folder / "default.pem").read_bytes() == signer.public.pem


def test_host_with_other_keys_is_asked_to_choose(passphrase: Path) -> None:
    keys.generate("release", "ed25519", passphrase)
    with pytest.raises(SigningError, match="no key default, but release") as caught:
        keys.unlock([], None)
    assert "--sign-key" in caught.value.hint


def test_folder_that_cannot_be_written_to(folder: Path) -> None:
    folder.parent.write_text("")
    with pytest.raises(ResourceError, match="cannot write to") as caught:
        keys.unlock([], None)
    assert "--no-sign" in caught.value.hint


def test_passphrase_from_the_environment(
    passphrase: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(private_keys.PASSPHRASE_VARIABLE, str(passphrase))
    assert edgepack("keys", "generate", "mine").status == 0
    assert edgepack("sign", bundle, "--key", "mine").status == 0


def test_wrong_passphrase(passphrase: Path, bundle: Path, tmp_path: Path) -> None:
    keys.generate("mine", "ed25519", passphrase)
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2-hunter2\n")
    outcome = edgepack("sign", bundle, "--key", "mine", "--passphrase-file", wrong)
    refused(outcome, 14, "the passphrase is wrong", "--passphrase-file")
    assert "hunter2" not in outcome.err
    wrong.write_text("\n")
    refused(edgepack("sign", bundle, "--key", "mine", "--passphrase-file", wrong), 14, "is empty")
    refused(edgepack("sign", bundle, "--key", "mine"), 14, "no terminal")
    refused(edgepack("keys", "generate", "other"), 14, "no terminal")


def test_typed_passphrase(passphrase: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    prompts = []

    def secret(prompt: str, *, confirm: bool = False) -> str:
        prompts.append((prompt, confirm))
        return SECRET

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(console, "secret", secret)
    keys.generate("mine", "ed25519", None)
    keys.unlock(["mine"], None)
    assert keys.unlock(["mine"], passphrase)
    assert prompts == [
        ("Passphrase for the new key mine", True),
        (f"Passphrase for {folder / 'mine.key'}", False),
    ]


@pytest.mark.parametrize("name", ["", "Mine", "a/b", "../a", ".a", "a" * 65, "é"])
def test_names_that_are_refused(passphrase: Path, name: str) -> None:
    with pytest.raises(SigningError, match="not the name of a key"):
        keys.generate(name, "ed25519", passphrase)


def test_taken_name_and_unknown_one(passphrase: Path, folder: Path) -> None:
    keys.generate("release", "ed25519", passphrase)
    before = (folder / "release.key").read_bytes()
    with pytest.raises(SigningError, match="there is a key release already"):
        keys.generate("release", "ed25519", passphrase)
    assert (folder / "release.key").read_bytes() == before
    with pytest.raises(SigningError, match="did you mean release"):
        keys.unlock(["releas"], passphrase)


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(pem(rsa.generate_private_key(65537, 2048)), "neither Ed25519", id="rsa"),
        pytest.param(pem(ec.generate_private_key(ec.SECP384R1())), "only P-256", id="p-384"),
        pytest.param(
            ed25519_key().private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            "is not encrypted",
            id="open",
        ),
        pytest.param(ed25519_key().pem, "no private key", id="public"),
        pytest.param(b"", "no private key", id="empty"),
        pytest.param(
            pem(ed25519.Ed25519PrivateKey.generate())[:-80], "cannot be unlocked", id="cut"
        ),
    ],
)
def test_files_that_cannot_sign(
    tmp_path: Path, passphrase: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "x.key"
    file.write_bytes(content)
    with pytest.raises(SigningError, match=says) as caught:
        keys.unlock([str(file)], passphrase)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.requires("openssl")
def test_key_from_openssl_signs(tmp_path: Path, passphrase: Path, bundle: Path) -> None:
    file = tmp_path / "x.key"
    made = ("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    subprocess.run([*made, "-out", str(tmp_path / "open")], check=True, capture_output=True)
    locked = ("openssl", "pkcs8", "-topk8", "-scrypt", "-passout", f"file:{passphrase}")
    subprocess.run([*locked, "-in", str(tmp_path / "open"), "-out", str(file)], check=True)
    bundles.sign(bundle, keys.unlock([str(file)], passphrase))


def test_private_key_in_place_of_a_public_one(passphrase: Path, bundle: Path, folder: Path) -> None:
    keys.generate("mine", "ed25519", passphrase)
    outcome = edgepack("verify", bundle, "--key", folder / "mine.key")
    refused(outcome, 14, "is a private key, where a public key is expected")
    assert "PRIVATE" not in outcome.err


def test_flashing_brings_the_key_of_this_host(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path / "card", ELF_X86_64, allow_unsigned=False)
    refused(edgepack("flash", bundle, root), 8, "is not signed, and the device trusts no key yet")
    assert edgepack("sign", bundle).status == 0
    flash(bundle, str(root))
    (key,) = keys.stored()
    assert [trusted.id for trusted in Keyring(Target(root)).trusted] == [key.public.id]
    draft().replaced(version="2.0.0").signed(ed25519_key()).write(bundle)
    refused(edgepack("flash", bundle, root), 8, "not trusted")
    assert edgepack("flash", bundle, root, "--allow-unsigned").status == 0


def test_options_of_a_build_that_contradict(tmp_path: Path) -> None:
    build = ("build", "--profile", "cpu-x86_64")
    outcome = edgepack(*build, "--no-sign", "--trust-key", "x")
    assert (outcome.status, "cannot be combined" in outcome.err) == (2, True)
    outcome = edgepack(*build, "--revoke-key", "abc")
    assert (outcome.status, "64 hexadecimal digits" in outcome.err) == (2, True)
    refused(edgepack(*build, "--sign-key", "nobody"), 14, "neither a key of this host nor a file")
    assert not (tmp_path / "config").exists()

"""The files of a device's keyring."""

from pathlib import Path

from device_runtime.update.keyring import Keyring
from device_runtime.update.target import Target
from tests.support.keys import ed25519_key, p256_key
from tests.support.targets import ELF_X86_64, make_root


def test_revoking_keeps_what_an_administrator_wrote(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root", ELF_X86_64)
    builder, stranger = ed25519_key(), p256_key("stranger")
    folder = root / "etc/edgepack/keys.d"
    folder.mkdir()
    (folder / "builder.pem").write_bytes(builder.pem)
    (folder / "revoked").write_text(f"# by hand\n{stranger.id}  # lost")
    keyring = Keyring(Target(root))
    keyring.revoke(builder.id)
    text = (folder / "revoked").read_text()
    assert text == f"# by hand\n{stranger.id}  # lost\n{builder.id}\n"
    assert keyring.trusted == Keyring(Target(root)).trusted == ()

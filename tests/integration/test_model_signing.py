"""The signature of a model's files, checked by the OpenSSF's own program."""

from pathlib import Path

import pytest

from device_runtime.bundle.reader import open_bundle
from tests.support import model_signing
from tests.support.bundles import draft
from tests.support.commands import edgepack

pytestmark = pytest.mark.slow


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle signed by a new key `release`, and `release.pem` and `other.pem` beside it."""
    (tmp_path / "passphrase").write_text("long enough")
    monkeypatch.setenv("EDGEPACK_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    monkeypatch.setenv("EDGEPACK_KEYS", str(tmp_path / "keys"))
    path = draft().write(tmp_path / "tiny.epk")
    for arguments in (
        ["keys", "generate", "release", "--algorithm", "ecdsa-p256"],
        ["keys", "generate", "other", "--algorithm", "ecdsa-p256"],
        ["keys", "export", "release", "-o", tmp_path / "release.pem"],
        ["keys", "export", "other", "-o", tmp_path / "other.pem"],
        ["sign", path, "--key", "release"],
    ):
        outcome = edgepack(*arguments)
        assert outcome.status == 0, outcome.err
    return path


def test_upstream_accepts_the_model_and_notices_changes(bundle: Path) -> None:
    (bundle.parent / "release").mkdir()
    with open_bundle(bundle) as source:
        model = source.unpack(bundle.parent / "release").model_folder

    def verify(public: str) -> tuple[int, str]:
        signature = bundle.with_name("tiny.epk.model.sig")
        done = model_signing.verify(model, signature, bundle.with_name(public))
        return done.returncode, done.stdout + done.stderr

    assert verify("release.pem") == (0, "Verification succeeded\n")
    assert verify("other.pem")[0] != 0
    (model / "extra").touch()
    assert verify("release.pem")[0] != 0
    (model / "extra").unlink()
    (model / "model.onnx.data").write_bytes(b"changed")
    status, output = verify("release.pem")
    assert status != 0
    assert "Verification failed" in output

"""The signature of a model's files, checked by the OpenSSF's own program."""

from pathlib import Path

import pytest

from device_runtime.bundle.reader import open_bundle
from packager.attest.files import write
from tests.support import model_signing
from tests.support.bundles import draft
from tests.support.signers import key

pytestmark = pytest.mark.slow


def test_upstream_accepts_the_model_and_notices_changes(tmp_path: Path) -> None:
    bundle = draft().write(tmp_path / "tiny.epk")
    signer, other = key("ecdsa-p256"), key("ecdsa-p256")
    (tmp_path / "key.pem").write_bytes(signer.public.pem)
    (tmp_path / "other.pem").write_bytes(other.public.pem)
    write(bundle, [signer])
    (tmp_path / "release").mkdir()
    with open_bundle(bundle) as source:
        model = source.unpack(tmp_path / "release").model_folder

    def verify(public: str) -> tuple[int, str]:
        signature = tmp_path / "tiny.epk.model.sig"
        done = model_signing.verify(model, signature, tmp_path / public)
        return done.returncode, done.stdout + done.stderr

    assert verify("key.pem") == (0, "Verification succeeded\n")
    assert verify("other.pem")[0] != 0
    (model / "extra").touch()
    assert verify("key.pem")[0] != 0
    (model / "extra").unlink()
    (model / "model.onnx.data").write_bytes(b"changed")
    status, output = verify("key.pem")
    assert status != 0
    assert "Verification failed" in output

"""The signature of a bundle's model by itself, as OpenSSF Model Signing v1.0 defines it.

Whoever has only the `model` folder of a release can check it, with the OpenSSF's own tool:

    model_signing verify key --signature NAME.epk.model.sig --public_key KEY.pem release/model

It is a Sigstore bundle with one DSSE envelope over an in-toto statement that lists the files.
Source: https://github.com/sigstore/model-transparency (`_signing/signing.py`, `sign_ec_key.py`)
"""

import base64
import hashlib
import json

from device_runtime.bundle.manifest import MODEL_FOLDER, Manifest
from packager.attest.statement import PAYLOAD_TYPE, statement
from packager.private_keys import Algorithm, Signer

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
ALGORITHM: Algorithm = "ecdsa-p256"
"""The specification has ECDSA on NIST's curves, and no Ed25519."""


def model_signature(manifest: Manifest, signer: Signer) -> bytes:
    """Sign the files in a bundle's model folder.

    Args:
        manifest: the bundle's manifest.
        signer: a key with the algorithm `ALGORITHM`.
    """
    payload = _statement(manifest)
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(signer.public.pem).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"sig": base64.b64encode(signer.sign(payload, PAYLOAD_TYPE)).decode(), "keyid": ""}
            ],
        },
    }
    return json.dumps(bundle, indent=1).encode() + b"\n"


def _statement(manifest: Manifest) -> bytes:
    """List the files with their digests; the model's own digest is that of all digests in order."""
    prefix = f"{MODEL_FOLDER}/"
    files = {
        record.path.removeprefix(prefix): record.sha256
        for record in manifest.records
        if record.path.startswith(prefix) and record.link is None
    }
    resources = [
        {"name": name, "algorithm": "sha256", "digest": files[name]} for name in sorted(files)
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files)))
    predicate = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        "resources": resources,
    }
    return statement({MODEL_FOLDER: root.hexdigest()}, PREDICATE_TYPE, predicate)

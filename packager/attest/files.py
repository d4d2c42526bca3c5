"""The files with signed statements beside a bundle."""

from collections.abc import Sequence
from pathlib import Path

from device_runtime.bundle import signature
from device_runtime.bundle.reader import open_bundle
from packager import cache, console
from packager.aside import written_aside
from packager.attest.model_signature import ALGORITHM, model_signature
from packager.attest.provenance import provenance
from packager.attest.statement import PAYLOAD_TYPE
from packager.private_keys import Signer

HINT = "Free some space there, and sign the bundle again: edgepack sign BUNDLE"


def write(path: Path, signers: Sequence[Signer]) -> None:
    """Write `NAME.epk.provenance.json` and `NAME.epk.model.sig` beside a signed bundle.

    Args:
        path: the bundle.
        signers: the keys that signed it; without one, nothing is written.

    Raises:
        ResourceError: the files cannot be written.
    """
    if not signers:
        return
    digest = cache.file_digest(path)
    with open_bundle(path) as bundle:
        payload = provenance(path.name, digest, bundle)
        manifest = bundle.manifest
    signatures = {signer.public.id: signer.sign(payload, PAYLOAD_TYPE) for signer in signers}
    envelope = signature.write(payload, signatures, PAYLOAD_TYPE)
    _write(path.with_name(f"{path.name}.provenance.json"), envelope)
    signer = next((signer for signer in signers if signer.public.algorithm == ALGORITHM), None)
    if signer is None:
        console.note(
            "No model signature: OpenSSF Model Signing has no Ed25519. Also sign with a key from "
            f"`edgepack keys generate NAME --algorithm {ALGORITHM}` to get one."
        )
    else:
        _write(path.with_name(f"{path.name}.model.sig"), model_signature(manifest, signer))


def _write(path: Path, content: bytes) -> None:
    with written_aside(path, HINT) as file:
        file.write(content)

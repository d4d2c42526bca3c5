"""The provenance of a bundle: what built it, from which source, with which versions.

An in-toto statement with the predicate of SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance).
All of it is from the bundle: there are neither times nor paths nor names of the build machine, so
that the same bundle always has the same statement.
"""

from typing import Any

from packageurl import PackageURL

from device_runtime.bundle.manifest import Manifest
from device_runtime.bundle.source import Source
from packager.attest.statement import statement

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "tag:edgepack,2026:build/v1"
"""Kind of build: `edgepack build`, with the external parameters as listed here."""
BUILDER = "tag:edgepack,2026:builder/v1"
"""The builder: an edgepack that runs wherever its user runs it."""


def provenance(name: str, sha256: str, source: Source) -> bytes:
    """Encode the provenance of a bundle.

    Args:
        name: name of the bundle's file.
        sha256: digest of that file, hex.
        source: the bundle.
    """
    manifest = source.manifest
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "profile": manifest.profile,
                "model": manifest.model.source,
                "recipe": manifest.quantization.recipe,
                "id": manifest.id,
                "version": manifest.version,
                "sequence": manifest.sequence,
            },
            "resolvedDependencies": _dependencies(manifest),
        },
        "runDetails": {
            "builder": {
                "id": BUILDER,
                "version": {"edgepack": manifest.built_with.get("edgepack", "unknown")},
            }
        },
    }
    return statement({name: sha256, "manifest.json": source.digest}, PREDICATE_TYPE, predicate)


def _dependencies(manifest: Manifest) -> list[dict[str, Any]]:
    """List the inputs by digest, then the packages by name and version."""
    inputs = {manifest.model.name: manifest.model.source_sha256}
    if manifest.embedding is not None and not manifest.embedding.hidden_states:
        inputs[manifest.embedding.model.name] = manifest.embedding.model.source_sha256
    if manifest.speech is not None:
        inputs[manifest.speech.model.name] = manifest.speech.model.source_sha256
    if manifest.kit is not None:
        inputs[manifest.kit.name] = manifest.kit.digest
    listed: list[dict[str, Any]] = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in inputs.items()
    ]
    for name, version in sorted(manifest.built_with.items()):
        if name != "edgepack":
            kind = "generic" if name == "python" else "pypi"
            listed.append({"uri": PackageURL(kind, name=name, version=version).to_string()})
    return listed

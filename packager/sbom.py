"""The software bill of materials of a bundle: CycloneDX 1.6 JSON; same input, same bytes."""

import json
import uuid
from collections.abc import Iterable

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from msgspec import Struct
from packageurl import PackageURL

from device_runtime.bundle.model_facts import ModelFacts

# An SBOM has a serial number, and two equal ones have the same (RFC 9562, version 5).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "edgepack.sbom")


class Package(Struct, frozen=True, kw_only=True):
    """A package whose code is in a frozen runtime.

    Attributes:
        name: name of the package, normalized if it is Python's.
        version: exact version of the package; empty if not known.
        license: SPDX expression, or the licence as the package names it; empty if it names none.
        purl: package URL; empty if it has none.
        sha256: digest (hex) of what was downloaded; empty if nothing was.
        origin: address or file name of the user's own wheel that it is from; else empty.
        files: digests (sha256, hex) of its files in the runtime, by path.
        contains: packages that it has been built from, which are of no file of their own.
    """

    name: str
    version: str
    license: str
    purl: str = ""
    sha256: str = ""
    origin: str = ""
    files: dict[str, str] = {}
    contains: tuple["Package", ...] = ()


def render(
    bundle_id: str, version: str, models: Iterable[ModelFacts], packages: Iterable[Package]
) -> bytes:
    """Render the SBOM of a bundle: its models, and every package frozen into its runtime."""
    root = Component(name=bundle_id, version=version, type=ComponentType.FIRMWARE, bom_ref="bundle")
    components = [
        *(
            Component(
                name=model.name,
                type=ComponentType.MACHINE_LEARNING_MODEL,
                bom_ref=f"model:{model.name}",
                licenses=_licenses(model.license),
                hashes=_hashes(model.source_sha256),
            )
            for model in models
        ),
        *(_component(package) for package in packages),
    ]
    bom = Bom(components=components)
    bom.metadata.component = root
    bom.register_dependency(root, components)
    rendered = json.loads(JsonV1Dot6(bom).output_as_string())
    del rendered["serialNumber"], rendered["metadata"]["timestamp"]
    body = json.dumps(rendered, sort_keys=True)
    rendered["serialNumber"] = uuid.uuid5(NAMESPACE, body).urn
    return json.dumps(rendered, indent=1, sort_keys=True).encode() + b"\n"


def _component(package: Package, within: str = "") -> Component:
    """Return a package with all that it consists of: references are unique in the SBOM."""
    reference = within + (package.purl or f"{package.name}@{package.version}")
    files = [
        Component(
            name=path, type=ComponentType.FILE, bom_ref=f"file:{path}", hashes=_hashes(digest)
        )
        for path, digest in package.files.items()
    ]
    return Component(
        name=package.name,
        version=package.version or None,
        bom_ref=reference,
        purl=PackageURL.from_string(package.purl) if package.purl else None,
        licenses=_licenses(package.license),
        hashes=_hashes(package.sha256),
        external_references=_distribution(package.origin),
        components=[*files, *(_component(part, f"{reference}#") for part in package.contains)],
    )


def _hashes(sha256: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _distribution(origin: str) -> list[ExternalReference]:
    kind = ExternalReferenceType.DISTRIBUTION
    return [ExternalReference(type=kind, url=XsUri(origin))] if origin else []


def _licenses(text: str) -> list:  # type: ignore[type-arg]
    return [LicenseFactory().make_from_string(text)] if text else []

"""The software bill of materials of a bundle: CycloneDX 1.6 JSON; same input, same bytes."""

import json
import uuid
from collections.abc import Iterable
from typing import Protocol

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from device_runtime.bundle.manifest import ModelFacts

# An SBOM has a serial number, and two equal ones have the same (RFC 9562, version 5).
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "edgepack.sbom")


class Package(Protocol):
    """A package in a frozen runtime."""

    @property
    def name(self) -> str:
        """Name in the package index."""
        ...

    @property
    def version(self) -> str:
        """Exact version."""
        ...

    @property
    def license(self) -> str:
        """SPDX expression, or the licence as the package names it; empty if it names none."""
        ...


def render(bundle_id: str, version: str, model: ModelFacts, packages: Iterable[Package]) -> bytes:
    """Render the SBOM of a bundle: its model, and every package frozen into its runtime."""
    root = Component(name=bundle_id, version=version, type=ComponentType.FIRMWARE, bom_ref="bundle")
    components = [
        Component(
            name=model.name,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model:{model.name}",
            licenses=_licenses(model.license),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model.source_sha256)],
        )
    ]
    for package in packages:
        kind = "generic" if package.name == "python" else "pypi"
        purl = PackageURL(kind, name=package.name.lower(), version=package.version)
        components.append(
            Component(
                name=package.name,
                version=package.version,
                bom_ref=purl.to_string(),
                purl=purl,
                licenses=_licenses(package.license),
            )
        )
    bom = Bom(components=components)
    bom.metadata.component = root
    bom.register_dependency(root, components)
    rendered = json.loads(JsonV1Dot6(bom).output_as_string())
    del rendered["serialNumber"], rendered["metadata"]["timestamp"]
    body = json.dumps(rendered, sort_keys=True)
    rendered["serialNumber"] = uuid.uuid5(NAMESPACE, body).urn
    return json.dumps(rendered, indent=1, sort_keys=True).encode() + b"\n"


def _licenses(text: str) -> list:  # type: ignore[type-arg]
    return [LicenseFactory().make_from_string(text)] if text else []

"""A release folder around a model folder, without a frozen program."""

import os
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.manifest import Blob, Record
from device_runtime.bundle.reasoning import Reasoning
from device_runtime.bundle.release import Release, open_release
from device_runtime.bundle.vision import Vision
from tests.support import bundles


def release(
    folder: Path,
    model: Path,
    *,
    context_length: int = 256,
    kit: KitFacts | None = None,
    reasoning: Reasoning | None = None,
    vision: Vision | None = None,
    **settings: Any,
) -> Release:
    """Write a release with this model, its files linked; settings override those of `bundles`.

    Args:
        folder: folder of the release.
        model: folder of the model.
        context_length: that of the manifest.
        kit: the kit in the manifest; its program is named there alone.
        reasoning: how the model thinks.
        vision: how the model sees.
        settings: replace the manifest's.
    """
    target = folder / schema.MODEL_FOLDER
    target.mkdir(parents=True)
    draft = bundles.draft(kit.machine if kit else None)
    records = [record for record in draft.manifest.records if record.component == "runtime"]
    for path in sorted(model.iterdir()):
        os.link(path, target / path.name)
        data = path.read_bytes()
        digest = bundles.digest(data)
        records.append(
            Record(
                path=f"{schema.MODEL_FOLDER}/{path.name}",
                component="model",
                mode=0o644,
                size=len(data),
                sha256=digest,
                blob=Blob(sha256=digest, size=len(data)),
            )
        )
        (target / path.name).chmod(0o644)
    manifest = msgspec.structs.replace(
        draft.manifest,
        context_length=context_length,
        kit=kit,
        reasoning=reasoning,
        vision=vision,
        records=tuple(records),
        settings=msgspec.structs.replace(
            draft.manifest.settings, **({"listen": "127.0.0.1:0", "threads": 2} | settings)
        ),
    )
    (folder / schema.MANIFEST_NAME).write_bytes(schema.encode(manifest))
    (folder / schema.SBOM_NAME).write_bytes(bundles.SBOM)
    (folder / schema.SIGNATURE_NAME).write_bytes(b"")
    return open_release(folder)

"""Releases with a speech model beside the model that answers."""

import os
import shutil
from pathlib import Path

import msgspec

from device_runtime.bundle import manifest as schema
from device_runtime.bundle.model_facts import ModelFacts
from device_runtime.bundle.release import Release, open_release
from device_runtime.bundle.speech import Speech
from tests.support import bundles, tiny_model

FACTS = ModelFacts(
    name="tiny-whisper",
    source="tiny-whisper",
    source_sha256="0" * 64,
    architecture="WhisperForConditionalGeneration",
    parameters=0,
    license="",
)


def make_onnx(source: Path, folder: Path, work: Path) -> Path:
    """Build the folder of a release from a speech model as transformers writes it; returns it."""
    tiny_model.make_onnx(source, folder, work)
    for name in ("generation_config.json", "preprocessor_config.json"):
        shutil.copy(source / name, folder)
    return folder


def add_speech(release: Release, model: Path, languages: tuple[str, ...]) -> Release:
    """Put a speech model into a release, its files linked."""
    target = release.speech_folder
    target.mkdir()
    records = list(release.manifest.records)
    for path in sorted(model.iterdir()):
        os.link(path, target / path.name)
        data = path.read_bytes()
        digest = bundles.digest(data)
        records.append(
            schema.Record(
                path=f"{schema.SPEECH_FOLDER}/{path.name}",
                component="model",
                mode=0o644,
                size=len(data),
                sha256=digest,
                blob=schema.Blob(sha256=digest, size=len(data)),
            )
        )
        (target / path.name).chmod(0o644)
    speech = Speech(model=FACTS, weights="fp32", languages=languages, memory_bytes=64 << 20)
    manifest = msgspec.structs.replace(release.manifest, records=tuple(records), speech=speech)
    (release.folder / schema.MANIFEST_NAME).write_bytes(schema.encode(manifest))
    return open_release(release.folder)

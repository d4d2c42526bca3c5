"""Formatting of results: tables for people, plain data for `--json`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.kit_facts import KitFacts
from device_runtime.bundle.manifest import Manifest
from device_runtime.bundle.quantization import Quality
from device_runtime.bundle.reader import Bundle
from device_runtime.bundle.reasoning import Reasoning
from packager import console, keys
from packager.evaluation.evaluate import Evaluation
from packager.export import ExportedPackage
from packager.keys import StoredKey
from packager.kit import Kit, Packaged
from packager.models import tokenizers
from packager.profile import DeviceProfile, descriptions
from packager.quantize import kept
from packager.recipes.recipes import LADDER, RECIPES
from packager.request import BuildResult
from packager.units import MEGA, megabytes


def build_json(result: BuildResult) -> dict[str, Any]:
    """Return a build's result: the bundle and its manifest."""
    return {
        "bundle": str(result.path),
        "size": result.path.stat().st_size,
        "digest": result.digest,
        "signed_with": list(result.signed_with),
        "manifest": msgspec.to_builtins(result.manifest),
    }


def build_text(result: BuildResult) -> None:
    """Print a build's result: the bundle, and both models' answers."""
    for answer in result.manifest.quantization.answers:
        console.table(
            f"The same prompt before and after: {answer.prompt}",
            ["model", "answer"],
            [
                ["reference", answer.reference or "(not run)"],
                [result.manifest.quantization.recipe, answer.quantized or "(not run here)"],
            ],
        )
    _vision_text(result.manifest)
    size = megabytes(result.path.stat().st_size)
    console.result(f"{result.path} ({size}, {result.digest[:12]})")


def export_json(exported: ExportedPackage) -> Any:
    """Return an exported package; sizes are in bytes."""
    return msgspec.to_builtins(exported, enc_hook=str)


def export_text(exported: ExportedPackage) -> None:
    """Print an exported package, and how it was checked."""
    checked = exported.checked
    if checked is None:
        console.warn("this machine runs none of the variants: only their files were checked")
    elif not checked.opened:
        console.note("ONNX Runtime itself opens packages on Linux alone; that was not tried")
    variants = ", ".join(exported.variants)
    console.result(f"{exported.path} ({megabytes(exported.bytes)}; variants: {variants})")


def quality_rows(quality: Quality) -> list[list[str]]:
    """Format the measured quality: name, value and 95 % confidence interval."""
    kl_low, kl_high = quality.kl_interval
    low, high = quality.top1_interval
    rows = [["mean KL divergence (nats)", f"{quality.kl:.4f}", f"{kl_low:.4f} to {kl_high:.4f}"]]
    if quality.kl_tail is not None:
        rows.append(["KL of 99.9 % of the tokens, at most", f"{quality.kl_tail:.2f}", ""])
        rows.append(["largest KL of a token", f"{quality.kl_max:.2f}", ""])
    rows += [
        ["same top-1 token", f"{quality.top1:.1%}", f"{low:.1%} to {high:.1%}"],
        ["perplexity", f"{quality.perplexity:.2f}", ""],
        ["perplexity of the reference model", f"{quality.reference_perplexity:.2f}", ""],
    ]
    if quality.tasks is not None:
        tasks = quality.tasks
        rows += [
            ["tasks with the reference's value", f"{tasks.agreed} of {tasks.compared}", ""],
            ["tasks solved", f"{tasks.quantized_right} of {tasks.tasks}", ""],
            ["tasks the reference model solved", f"{tasks.reference_right} of {tasks.tasks}", ""],
        ]
    return rows


def evaluation_text(model: Path, result: Evaluation) -> None:
    """Print a model's measured quality, and both models' answers."""
    for answer in result.answers:
        console.table(
            answer.prompt,
            ["model", "answer"],
            [["reference", answer.reference], [model.name, answer.quantized]],
        )
    console.table(
        f"{model.name} against {result.reference} in fp32, {result.quality.tokens} tokens",
        ["", "", "95 % confidence"],
        quality_rows(result.quality),
    )


def inspect_text(path: Path, bundle: Bundle) -> None:
    """Print a bundle's head as tables."""
    manifest = bundle.manifest
    console.table("", ["", ""], [*_facts(path, bundle)])
    rows = []
    for component in ("runtime", "model", "tokenizer"):
        records = [record for record in manifest.records if record.component == component]
        blobs = {record.blob.sha256: record.blob for record in records if record.blob}
        stored = sum(blob.size for blob in blobs.values())
        installed = sum(record.size for record in records)
        if records:
            rows.append([component, str(len(records)), megabytes(installed), megabytes(stored)])
    console.table("Contents", ["component", "files", "installed", "in the bundle"], rows)
    for answer in manifest.quantization.answers:
        console.table(
            f"Prompt at build time: {answer.prompt}",
            ["model", "answer"],
            [["reference", answer.reference], [manifest.quantization.recipe, answer.quantized]],
        )
    _vision_text(manifest)
    _speech_text(manifest)


def _speech_text(manifest: Manifest) -> None:
    """Print how a speech model was measured."""
    speech = manifest.speech
    if speech is None or speech.quality is None:
        return
    console.table(
        f"Quality on recordings, {speech.quality.tokens} tokens",
        ["speech model", "size", "KL", "top-1", ""],
        [
            [
                f"{tried.weights} (in the bundle)"
                if tried.weights == speech.weights
                else tried.weights,
                megabytes(tried.model_bytes),
                f"{tried.quality.kl:.4f}",
                f"{tried.quality.top1:.1%}",
                "exceeds " + ", ".join(tried.exceeded) if tried.exceeded else "within the limits",
            ]
            for tried in speech.tried
        ],
    )


def _vision_text(manifest: Manifest) -> None:
    """Print how a model that sees was measured, and both models' answers about pictures."""
    vision = manifest.vision
    if vision is None or vision.quality is None:
        return
    for answer in vision.answers:
        console.table(
            f"Picture {answer.picture}: {answer.prompt}",
            ["model", "answer"],
            [["reference", answer.reference], [manifest.quantization.recipe, answer.quantized]],
        )
    console.table(
        f"Quality on pictures, {vision.quality.tokens} tokens",
        ["vision part", "size", "KL", "top-1", ""],
        [
            [
                f"{part.weights} (in the bundle)"
                if part.weights == vision.weights
                else part.weights,
                megabytes(part.vision_bytes),
                f"{part.quality.kl:.4f}",
                f"{part.quality.top1:.1%}",
                "exceeds " + ", ".join(part.exceeded) if part.exceeded else "within the limits",
            ]
            for part in vision.tried
        ],
    )


def _facts(path: Path, bundle: Bundle) -> Iterable[list[str]]:
    manifest: Manifest = bundle.manifest
    model, quantization, kit = manifest.model, manifest.quantization, manifest.kit
    yield ["bundle", f"{path.name} ({megabytes(path.stat().st_size)})"]
    yield ["id", f"{manifest.id} {manifest.version} (sequence {manifest.sequence})"]
    yield ["digest", bundle.digest]
    yield ["signature", signatures_text(keys.signatures(bundle))]
    yield ["profile", manifest.profile]
    yield ["compatible", ", ".join(manifest.compatible)]
    yield ["runtime", f"{kit.name}, glibc {kit.min_glibc} or newer" if kit else "none (model only)"]
    yield ["model", f"{model.name} ({model.architecture}, {model.parameters / MEGA:.1f} M weights)"]
    yield ["source", model.source]
    yield ["license", model.license or "unknown"]
    yield ["quantization", f"{quantization.recipe} for {quantization.execution_provider}"]
    if quantization.source_types:
        yield ["weights of the file", kept.summary(quantization.source_types)]
    if quantization.tokenizer is not None:
        yield ["tokenizer", tokenizers.describe(quantization.tokenizer)]
    if manifest.reasoning is not None:
        yield ["thinking", thinking_text(manifest.reasoning)]
    if (embedding := manifest.embedding) is not None:
        about = f"{embedding.dimensions} dimensions, at most {embedding.max_tokens} tokens"
        yield ["embedding model", f"{embedding.model.name} ({about})"]
    if (speech := manifest.speech) is not None:
        known = speech.languages
        languages = ", ".join(known) if len(known) < 9 else f"{len(known)} languages"
        yield ["speech model", f"{speech.model.name} ({speech.weights}, {languages})"]
    if (vision := manifest.vision) is not None:
        weights = f", vision part in {vision.weights}" if vision.weights else ""
        yield ["images", f"{vision.family}, at most {vision.image_tokens} tokens each{weights}"]
    yield ["context", f"{manifest.context_length} tokens"]
    yield ["memory", f"about {megabytes(manifest.memory_bytes)} while serving"]
    yield ["listens on", manifest.settings.listen]
    yield ["built with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.built_with.items()))]


def thinking_text(reasoning: Reasoning) -> str:
    """Describe how a model thinks, in one line."""
    parts = [f"between {reasoning.begin!r} and {reasoning.end!r}"]
    if reasoning.argument is not None:
        state = "on" if reasoning.default else "off"
        parts.append(f"{state} by default")
        values = [(reasoning.on, "on"), (reasoning.off, "off")]
        parts += [
            f"{what} with {reasoning.argument} = {json.dumps(value)}"
            for value, what in values
            if value is not None
        ]
    return ", ".join(parts)


def signatures_text(signatures: Mapping[str, str | None]) -> str:
    """Describe the signatures of a bundle: key ids, each with the key's name on this host."""
    if not signatures:
        return "not signed"
    return "signed with " + ", ".join(
        f"{name} ({key_id[:16]})" if name else f"{key_id[:16]}, which is not a key of this host"
        for key_id, name in signatures.items()
    )


def key_json(key: StoredKey) -> dict[str, Any]:
    """Return a key of this host."""
    return {
        "name": key.name,
        "id": key.public.id,
        "algorithm": key.public.algorithm,
        "private_file": str(key.private_file) if key.private_file.is_file() else None,
    }


def keys_text(keys: Iterable[StoredKey]) -> None:
    """Print one line per key."""
    rows = [
        [
            key.name,
            key.public.algorithm,
            "yes" if key.private_file.is_file() else "no",
            key.public.id,
        ]
        for key in keys
    ]
    if rows:
        console.table("", ["key", "algorithm", "can sign", "id"], rows)
    else:
        console.result("no keys yet; make one with: edgepack keys generate NAME")


def profiles_text(profiles: Iterable[DeviceProfile]) -> None:
    """Print one line per profile."""
    console.table(
        "",
        ["profile", "device", "runtime", "model", "context", "memory"],
        [
            [
                profile.name,
                profile.description,
                profile.kit or "none (model only)",
                f"{profile.recipe} {profile.execution_provider}",
                f"{profile.context_length} tokens",
                f"{profile.memory_budget_mb} MiB",
            ]
            for profile in profiles
        ],
    )


def profile_text(profile: DeviceProfile) -> None:
    """Print all values of a profile, with a description of each key."""
    described = descriptions()
    rows = [[key, _value(value), described[key]] for key, value in profile.to_dict().items()]
    console.table(profile.name, ["key", "value", ""], rows)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key}={{{_value(item)}}}" if isinstance(item, dict) else f"{key}={item}"
            for key, item in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)


def kit_json(kit: Kit, packages: Iterable[Packaged] = ()) -> dict[str, Any]:
    """Return a kit's facts, folder, size and origin."""
    return {
        **msgspec.to_builtins(kit.facts),
        "folder": str(kit.folder),
        "size": kit.size,
        "from": _origin(kit, packages),
    }


def kits_json(kits: Iterable[Kit], packages: Sequence[Packaged]) -> list[dict[str, Any]]:
    """Return the kits in the cache, and those in packages that were not used yet."""
    unused = [
        {
            **msgspec.to_builtins(packaged.description.facts),
            "folder": None,
            "size": None,
            "from": packaged.title,
        }
        for packaged in _unused(kits, packages)
    ]
    return [*(kit_json(kit, packages) for kit in kits), *unused]


def kits_text(kits: Sequence[Kit], packages: Sequence[Packaged] = ()) -> None:
    """Print one line per kit."""
    rows = [[*_kit_row(kit.facts, megabytes(kit.size)), _origin(kit, packages)] for kit in kits]
    rows += [
        [*_kit_row(packaged.description.facts, "packed"), packaged.title]
        for packaged in _unused(kits, packages)
    ]
    if rows:
        console.table("", ["kit", "size", "glibc", "digest", "from"], rows)
    else:
        console.result(
            "no kits yet; install one with: pip install edgepack-kit-NAME, or freeze one with: "
            "edgepack kit build NAME"
        )


def _kit_row(facts: KitFacts, size: str) -> list[str]:
    return [facts.name, size, facts.min_glibc, facts.digest[:12]]


def _origin(kit: Kit, packages: Iterable[Packaged]) -> str:
    """Tell where a kit comes from."""
    for packaged in packages:
        if kit.imported and packaged.description == kit.description:
            return packaged.title
    origin = "imported" if kit.imported else "frozen here"
    return f"{origin}, own wheels" if kit.facts.wheels else origin


def _unused(kits: Iterable[Kit], packages: Iterable[Packaged]) -> list[Packaged]:
    """List the packages whose kits are not unpacked yet."""
    descriptions = [kit.description for kit in kits if kit.imported]
    return [packaged for packaged in packages if packaged.description not in descriptions]


def recipes_json() -> list[dict[str, Any]]:
    """Return all recipes, each marked whether `auto` tries it."""
    return [{**asdict(recipe), "auto": recipe.name in LADDER} for recipe in RECIPES.values()]


def recipes_text() -> None:
    """Print one line per recipe."""
    rows = [
        [recipe.name, recipe.description, "yes" if recipe.name in LADDER else ""]
        for recipe in RECIPES.values()
    ]
    console.table("", ["recipe", "description", "tried by auto"], rows)

"""The build of a bundle, step by step."""

import dataclasses
import platform
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

import device_runtime
from device_runtime.bundle import manifest as schema
from device_runtime.bundle.manifest import (
    Blob,
    Component,
    Manifest,
    Probe,
    Settings,
)
from device_runtime.bundle.quantization import TokenizerComparison
from packager import adapter, bundle, cache, console, kit, plan, sbom, tree
from packager.aside import check_writable
from packager.attest import files as attest
from packager.errors import KitError, ModelSourceError, QualityError
from packager.evaluation import picture_quality, speech_quality, texts
from packager.genai import decode_reads
from packager.genai.folder import component
from packager.genai.weight_files import weight_files
from packager.models import chat_template, embedding, speech, tokenizers, vision
from packager.models.catalog import CHAT
from packager.models.embedding import EmbeddingModel
from packager.models.facts import model_facts
from packager.models.source import (
    ModelSource,
    check_weights,
    hf_folder,
    must_convert,
    resolve,
    say_what_is_left_out,
)
from packager.profile import DeviceProfile
from packager.quantize import hearing, sight
from packager.quantize.candidate import Candidate, builder_versions
from packager.quantize.hearing import ChosenSpeech
from packager.quantize.quantize import QuantizeRequest, quantize
from packager.quantize.sight import Sight
from packager.report import build_report
from packager.request import BuildRequest, BuildResult
from packager.run import beside
from packager.schedule import Schedule


def build(request: BuildRequest) -> BuildResult:
    """Build a bundle: find the model, quantize and evaluate it, freeze the runtime, pack both.

    Raises:
        PackagerError: a step failed, with its own class of error; no partial output is left.
    """
    with console.step(f"Finding the model {request.model}"):
        source = resolve(
            request.model,
            trust_remote_code=request.trust_remote_code,
            provider=request.profile.execution_provider,
        )
        check_weights(source, trust_remote_code=request.trust_remote_code)
    if request.adapter is not None:
        with console.step(f"Merging the adapter {request.adapter}"):
            source = adapter.merge(
                source, request.adapter, trust_remote_code=request.trust_remote_code
            )
    if request.chat_template is not None:
        source = chat_template.given(source, request.chat_template)
    if must_convert(source):
        folder = hf_folder(source, trust_remote_code=request.trust_remote_code)
        if not folder.exists():
            plan.check(texts.conversion(source), f"converting {source.name}")
    tokenizer = tokenizers.check(source, trust_remote_code=request.trust_remote_code)
    embedder = None
    if request.embedding_model not in (None, CHAT):
        embedder = _embedding(request, source)
    heard = None
    if request.speech_model is not None:
        names = [source.name, *([embedder.facts.model.name] if embedder is not None else [])]
        heard = _speech(request, names)
    with console.scheduled(Schedule()):
        return _bundle(request, source, tokenizer, embedder, heard)


def _bundle(
    request: BuildRequest,
    source: ModelSource,
    tokenizer: TokenizerComparison | None,
    embedder: EmbeddingModel | None,
    heard: ChosenSpeech | None,
) -> BuildResult:
    """Build the bundle of a source model whose tokenizer was compared."""
    profile = request.profile
    identity = f"{_slug(source.name)}-{_slug(profile.name)}"
    output = request.output or Path(
        f"{_slug(source.name)}-{request.version}-{_slug(profile.name)}.epk"
    )
    check_writable(output, "Choose another location with -o FILE.epk.")
    eyes = _sight(request, source)
    # Neither needs the other.
    with beside(lambda: _packed_runtime(request)) as frozen:
        quantized = quantize(
            QuantizeRequest(
                source=source,
                profile=profile,
                output=output,
                recipe=request.recipe or profile.recipe,
                eval_text=request.eval_text,
                calibration_text=request.calibration_text,
                allow_quality_loss=request.allow_quality_loss,
                trust_remote_code=request.trust_remote_code,
                sight=eyes,
            )
        )
    runtime, parts = frozen.result()
    model = quantized.choice.chosen
    seeing = None
    if eyes is not None:
        seeing = eyes.choose(model)
        model = dataclasses.replace(model, folder=seeing.model.folder, digest=seeing.model.digest)
    if request.embedding_model == CHAT:
        embedder = embedding.of_chat_model(
            source, model.folder, model.digest, context_length=model.context_length
        )
        model = dataclasses.replace(model, folder=embedder.folder, digest=embedder.digest)
    parts_bytes = {
        "its vision part": seeing.model.memory_bytes if seeing is not None else 0,
        "the embedding model": embedder.facts.memory_bytes if embedder is not None else 0,
        "the speech model": heard.facts.memory_bytes if heard is not None else 0,
    }
    memory = model.memory_bytes + sum(parts_bytes.values())
    budget = profile.memory_budget_mb << 20
    if memory > budget >= model.memory_bytes and not request.allow_quality_loss:
        raise QualityError(
            f"the model and {' and '.join(name for name, size in parts_bytes.items() if size)} "
            f"need {memory >> 20} MiB of memory, more than the {budget >> 20} MiB of the profile "
            f"{profile.name}",
            hint="Use smaller models, or a profile with a shorter context.",
        )
    # Measured before the bundle is written, so that an interrupt leaves no partial output.
    speeds = build_report.measure_speeds(quantized.choice)
    with console.step("Packing"):
        parts += bundle.pack(
            tree.read(model.folder),
            schema.MODEL_FOLDER,
            {"model": model.digest},
            component,
            weight_files(model.folder),
        )
        if embedder is not None and not embedder.facts.hidden_states:
            parts += bundle.pack(
                tree.read(embedder.folder),
                schema.EMBEDDING_FOLDER,
                {"embedding": embedder.digest},
                component,
                [embedder.graph],
            )
        if heard is not None:
            parts += bundle.pack(
                tree.read(heard.model.folder),
                schema.SPEECH_FOLDER,
                {"speech": heard.model.digest},
                component,
                weight_files(heard.model.folder),
            )
    facts = model_facts(source)
    models = [facts]
    if embedder is not None and not embedder.facts.hidden_states:
        models.append(embedder.facts.model)
    if heard is not None:
        models.append(heard.facts.model)
    bom = sbom.render(identity, request.version, models, runtime.packages if runtime else ())
    manifest = Manifest(
        format=schema.FORMAT,
        id=identity,
        version=request.version,
        sequence=request.sequence,
        profile=profile.name,
        compatible=tuple(profile.compatible),
        kit=runtime.facts if runtime else None,
        model=facts,
        quantization=msgspec.structs.replace(quantized.facts, tokenizer=tokenizer),
        context_length=model.context_length,
        memory_bytes=memory,
        settings=_settings(profile, model),
        built_with={
            "edgepack": device_runtime.__version__,
            "python": platform.python_version(),
            **builder_versions(),
        },
        sbom=Blob(sha256=cache.bytes_digest(bom), size=len(bom)),
        records=tuple(part.record for part in parts),
        trust=request.trust,
        probe=_probe(model),
        reasoning=model.graph.reasoning,
        embedding=embedder.facts if embedder is not None else None,
        vision=seeing.facts if seeing is not None else None,
        speech=heard.facts if heard is not None else None,
        reads=decode_reads.of(
            model.folder,
            cache_bytes=model.graph.cache_bytes,
            state_bytes=model.graph.state_bytes,
        ),
    )
    plan.check_output(sum(blob.size for blob in manifest.blobs.values()), output)
    with console.step(f"Writing and verifying {output}"):
        digest = bundle.write(output, manifest, bom, parts, request.signers)
        attest.write(output, request.signers)
    result = BuildResult(
        path=output,
        digest=digest,
        manifest=manifest,
        signed_with=tuple(signer.public.id for signer in request.signers),
    )
    if quantized.facts.tried:
        results = seeing.results if seeing is not None else ()
        build_report.write(request, result, quantized.choice, speeds, results)
    return result


def _sight(request: BuildRequest, source: ModelSource) -> Sight | None:
    """Check what a request says of sight; return what measures it on pictures.

    Returns:
        None for a model that does not see, or is built without its sight.
    """
    if not vision.sees(source) or request.text_only:
        if request.eval_images is not None:
            raise ModelSourceError(
                f"--eval-images: {source.name} is built as a text model, which sees no images",
                hint="Build without --eval-images.",
            )
        if request.text_only and vision.sees(source):
            say_what_is_left_out(source)
        return None
    if request.eval_images is not None and source.kind == "onnx":
        raise ModelSourceError(
            f"--eval-images: {source.name} came as ONNX, without a reference model to compare with",
            hint="Build from the Hugging Face folder, or without --eval-images.",
        )
    if request.embedding_model == CHAT:
        raise ModelSourceError(
            "--embedding-model chat is not supported for a model that sees",
            hint="Build the text model alone (--text-only), or use an embedding model of its own.",
        )
    pictures = picture_quality.prepare(source, request.eval_images)
    sight.prepare(source, request.profile)
    return Sight(source, request.profile, pictures, trust_remote_code=request.trust_remote_code)


def _embedding(request: BuildRequest, source: ModelSource) -> EmbeddingModel:
    """Find and export the embedding model of a request, for a bundle of a source model."""
    assert request.embedding_model is not None
    with console.step(f"Finding the embedding model {request.embedding_model}"):
        encoder = embedding.resolve(request.embedding_model)
    _check_names(source.name, encoder.name)
    plan.check(plan.exporting(encoder.parameters), f"exporting {encoder.name}")
    return embedding.export(encoder, context_length=request.profile.context_length)


def _speech(request: BuildRequest, names: Iterable[str]) -> ChosenSpeech:
    """Find, export and measure the speech model of a request, for a bundle with named models."""
    assert request.speech_model is not None
    with console.step(f"Finding the speech model {request.speech_model}"):
        source = speech.resolve(request.speech_model)
    _check_names(*names, source.name)
    recordings = speech_quality.prepare(request.eval_audio)
    return hearing.choose(source, request.profile, recordings)


def _check_names(*names: str) -> None:
    """Refuse models of one name, by which requests choose one."""
    for name in names:
        if names.count(name) > 1:
            raise ModelSourceError(
                f"both models have the name {name!r}, by which requests choose one",
                hint="Rename one of the folders.",
            )


def _packed_runtime(request: BuildRequest) -> tuple[kit.Kit | None, list[bundle.Part]]:
    """Get the frozen runtime, and pack it, beside the stages of the schedule."""
    with console.scheduled(None):
        runtime = _runtime(request)
        if runtime is None:
            return None, []
        with console.step("Packing the runtime"):
            inputs = {"kit": runtime.facts.digest}
            return runtime, bundle.pack(runtime.tree, "runtime", inputs, _runtime_component)


def _runtime(request: BuildRequest) -> kit.Kit | None:
    """Get the frozen runtime that the profile names; None for a model-only build."""
    name = request.profile.kit
    if name is None and request.kit is not None:
        raise KitError(
            f"the profile {request.profile.name} has no runtime", hint="Build without --kit."
        )
    if request.model_only or name is None:
        return None
    if name not in kit.PLATFORMS:
        raise KitError(
            f"this version of edgepack has no kit {name}",
            hint="Build the model alone with --model-only, for an application that links "
            "ONNX Runtime GenAI itself.",
        )
    with console.step(f"Getting the runtime {name}"):
        runtime = kit.ensure(name, request.kit)
    kit.check_gpu(runtime.facts, request.profile.compatible)
    return runtime


def _runtime_component(_path: str) -> Component:
    return "runtime"


def _settings(profile: DeviceProfile, model: Candidate) -> Settings:
    return Settings(
        listen=profile.listen,
        threads=profile.threads,
        max_tokens=min(profile.max_tokens, model.context_length),
        status_interval_s=profile.status_interval_s,
        min_tokens_per_s=profile.min_tokens_per_s,
    )


def _probe(model: Candidate) -> Probe | None:
    certain = model.graph.probe
    return Probe(prompt=certain.prompt, tokens=certain.tokens) if certain else None


def _slug(name: str) -> str:
    """Convert a name for use in file names and ids: lower case, no path separators, not long."""
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:63] or "model"

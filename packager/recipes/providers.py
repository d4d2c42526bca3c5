"""Which recipes can be built for which execution provider."""

from packager.recipes.recipes import RECIPES, Recipe

WEBGPU = "webgpu"
"""The provider whose devices also run the graph for the CPU."""

PRECISIONS = {
    "cpu": ("fp32", "int8", "int4"),
    "cuda": ("fp32", "fp16", "bf16", "int8", "int4"),
    "dml": ("fp16", "int4"),
    WEBGPU: ("int8", "int4"),
    "NvTensorRtRtx": ("fp16", "bf16"),
}
"""Execution providers, and the precisions that work: those that the model builder announces for
them. tests/integration/test_providers.py builds each, and docs/precisions.md is the table."""

ORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    WEBGPU: "WebGpuExecutionProvider",
    "NvTensorRtRtx": "NvTensorRTRTXExecutionProvider",
}
"""Names of the execution providers in ONNX Runtime (`onnxruntime/core/graph/constants.h`)."""

NOT_MADE = {
    ("cpu", "fp16"): "its graph fails as it runs; int8 is smaller, faster and close to exact",
    ("dml", "fp32"): "the model builder announces fp16 and int4 alone",
    ("dml", "int8"): "the model builder announces fp16 and int4 alone",
    (WEBGPU, "fp32"): "the model builder announces int8 and int4 alone",
    (WEBGPU, "fp16"): "the model builder announces int8 and int4 alone",
    ("NvTensorRtRtx", "fp32"): "the model builder announces fp16 and bf16 alone",
    ("NvTensorRtRtx", "int8"): "the model builder makes no int8 in the form this provider reads",
    ("NvTensorRtRtx", "int4"): "the model builder makes no int4 embeddings for this provider",
}
"""Reasons why a precision is not built for an execution provider."""

PASS_PROVIDERS = ("cpu", "cuda", WEBGPU)
"""Execution providers for which edgepack quantizes; for the others the model builder does."""


def refusal(recipe: Recipe, provider: str) -> str:
    """Return why a recipe cannot be built for an execution provider; empty if it can."""

    def fits(candidate: Recipe) -> bool:
        by_builder = candidate.algorithm is None or candidate.plain
        has_quantizer = by_builder or provider in PASS_PROVIDERS
        return candidate.precision in PRECISIONS[provider] and has_quantizer

    if fits(recipe):
        return ""
    valid = ", ".join(name for name, other in RECIPES.items() if fits(other))
    reason = NOT_MADE.get((provider, recipe.precision), "edgepack's own quantizers do not serve it")
    return f"{provider} takes {valid}, not {recipe.name!r}: {reason}"

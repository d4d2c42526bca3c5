"""The part of a manifest that tells how the model was quantized, and what was seen of it."""

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Unknown fields are ignored, so that a later minor version may add some."""


class PromptAnswer(Struct, frozen=True, kw_only=True):
    """What the reference model and the quantized one say to the same prompt (greedy)."""

    prompt: str
    reference: str
    quantized: str


class Quality(Struct, frozen=True, kw_only=True):
    """What quantization did to a model, over the same tokens as the original model.

    Intervals are of 95 % confidence.

    Attributes:
        kl: mean KL divergence of the quantized model from the original, nats a token.
        kl_interval: of it.
        top1: share of tokens for which both models' first choice is the same.
        top1_interval: of it.
        perplexity: of the quantized model.
        reference_perplexity: of the original model.
        tokens: how many tokens this was measured on.
    """

    kl: float
    kl_interval: tuple[float, float]
    top1: float
    top1_interval: tuple[float, float]
    perplexity: float
    reference_perplexity: float
    tokens: int


class TriedRecipe(Struct, frozen=True, kw_only=True):
    """A recipe that the build tried.

    Attributes:
        recipe: its name.
        model_bytes: size of graph and weights.
        memory_bytes: estimate of the resident memory while serving, bytes.
        quality: None where it cannot be measured on the build machine.
        exceeded: the limits it does not keep, one phrase each; empty if it passed.
    """

    recipe: str
    model_bytes: int
    memory_bytes: int
    quality: Quality | None
    exceeded: tuple[str, ...]


class QuantizationFacts(Struct, frozen=True, kw_only=True):
    """How the weights were quantized, and what was seen of the result.

    Attributes:
        recipe: name of the recipe, `int4-gptq`; `as-is` for a model that came as ONNX.
        precision: weight type as ONNX Runtime GenAI names it.
        execution_provider: as in genai_config.json (`cpu`, `cuda`).
        options: what the profile asked of the graph beside that.
        operators: nodes of each type in the graph.
        answers: fixed prompts, answered by both models.
        quality: of the model in the bundle; None where it was not measured.
        tried: all recipes that the build tried, in that order; the last is the one in the bundle
            unless `quality_loss_allowed`.
        quality_loss_allowed: the model exceeds the profile's limits, and the user allowed it.
    """

    recipe: str
    precision: str
    execution_provider: str
    options: dict[str, str]
    operators: dict[str, int]
    answers: tuple[PromptAnswer, ...]
    quality: Quality | None = None
    tried: tuple[TriedRecipe, ...] = ()
    quality_loss_allowed: bool = False

"""The part of a manifest that describes how the model was quantized, and its measured quality."""

from typing import Annotated

import msgspec
from msgspec import Meta

from device_runtime.bundle.fields import Bytes, Count, Finite, Line, Share, Text


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of the manifest's structs: ignores unknown fields, which a minor version may add."""


class PromptAnswer(Struct, frozen=True, kw_only=True):
    """The greedy answers of the reference model and the quantized model to the same prompt."""

    prompt: Text
    reference: Text
    quantized: Text


class TaskAnswer(Struct, frozen=True, kw_only=True):
    """The values that both models gave as the answer of a short task; empty if they gave none."""

    prompt: Text
    right: Text
    reference: Text
    quantized: Text


class TaskCounts(Struct, frozen=True, kw_only=True):
    """Results of short tasks that both models solve.

    Attributes:
        tasks: number of tasks.
        compared: tasks for which the reference model gave a value, right or wrong.
        agreed: tasks of these for which the quantized model gave the same value.
        reference_right: tasks that the reference model solved.
        quantized_right: tasks that the quantized model solved.
    """

    tasks: Count
    compared: Count
    agreed: Count
    reference_right: Count
    quantized_right: Count


class Quality(Struct, frozen=True, kw_only=True):
    """Quality of a quantized model against the reference model, on the same tokens.

    Intervals have 95 % confidence.

    Attributes:
        kl: mean KL divergence of the quantized model from the reference model, nats per token.
        kl_interval: confidence interval of `kl`.
        kl_tail: KL divergence that 99.9 % of the tokens do not exceed, nats.
        kl_max: largest KL divergence of a token, nats.
        top1: share of tokens for which both models have the same top-1 token.
        top1_interval: confidence interval of `top1`.
        perplexity: perplexity of the quantized model.
        reference_perplexity: perplexity of the reference model.
        tokens: number of tokens measured.
        tasks: results of short tasks.
    """

    kl: Finite
    kl_interval: tuple[Finite, Finite]
    top1: Share
    top1_interval: tuple[Finite, Finite]
    perplexity: Finite
    reference_perplexity: Finite
    tokens: Count
    kl_tail: Finite | None = None
    kl_max: Finite | None = None
    tasks: TaskCounts | None = None


class TriedRecipe(Struct, frozen=True, kw_only=True):
    """A recipe that the build tried.

    Attributes:
        recipe: name of the recipe.
        model_bytes: size of graph and weights.
        memory_bytes: estimate of the resident memory while serving, bytes.
        quality: measured quality; None if it cannot be measured on the build machine.
        exceeded: limits that the model exceeds, one phrase each; empty if it passed.
        excused: limits that it exceeds and that did not count, one phrase each.
    """

    recipe: Line
    model_bytes: Bytes
    memory_bytes: Bytes
    quality: Quality | None
    exceeded: Annotated[tuple[Line, ...], Meta(max_length=32)]
    excused: Annotated[tuple[Line, ...], Meta(max_length=32)] = ()


class SourceType(Struct, frozen=True, kw_only=True):
    """The matrices of one tensor type in a GGUF file.

    Attributes:
        type: name of the type, `Q4_K`.
        weights: number of weights.
        kept: True if the bundle has these weights as they are in the file; False if they were
            quantized again.
    """

    type: Line
    weights: Count
    kept: bool


class TokenizerComparison(Struct, frozen=True, kw_only=True):
    """The device's tokenizer and chat template against those of transformers, on odd texts.

    Attributes:
        texts: number of texts.
        texts_differing: texts of these with other tokens, or whose tokens give another text.
        conversations: number of conversations; 0 for a model without a chat template.
        conversations_differing: conversations of these that the template renders otherwise.
        tokens_left_out: tokens that the model does not know; their text is plain text.
    """

    texts: Count
    texts_differing: Count
    conversations: Count
    conversations_differing: Count
    tokens_left_out: Count


class QuantizationFacts(Struct, frozen=True, kw_only=True):
    """The quantization of the weights, and the measured result.

    Attributes:
        recipe: name of the recipe, `int4-gptq`; `as-is` for a model that came as ONNX.
        precision: weight type as ONNX Runtime GenAI names it.
        execution_provider: execution provider as in genai_config.json (`cpu`, `cuda`).
        options: further options for the graph from the profile.
        operators: number of nodes of each type in the graph.
        answers: both models' answers to fixed prompts.
        tasks: both models' answers to short tasks.
        quality: quality of the model in the bundle; None if it was not measured.
        tried: all recipes that the build tried, in that order; the last is the one in the bundle
            unless `quality_loss_allowed`.
        quality_loss_allowed: True if the model exceeds the profile's limits and the user
            allowed it.
        source_types: tensor types of the GGUF file whose codes were kept; empty for other recipes.
        tokenizer: comparison of the tokenizer; None for a model that came as ONNX.
    """

    recipe: Line
    precision: Line
    execution_provider: Line
    options: Annotated[dict[Line, Line], Meta(max_length=64)]
    operators: Annotated[dict[Line, Count], Meta(max_length=1000)]
    answers: Annotated[tuple[PromptAnswer, ...], Meta(max_length=100)]
    tasks: Annotated[tuple[TaskAnswer, ...], Meta(max_length=100)] = ()
    quality: Quality | None = None
    tried: Annotated[tuple[TriedRecipe, ...], Meta(max_length=32)] = ()
    quality_loss_allowed: bool = False
    source_types: Annotated[tuple[SourceType, ...], Meta(max_length=64)] = ()
    tokenizer: TokenizerComparison | None = None

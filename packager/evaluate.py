"""How far a quantized model is from its original: KL divergence, top-1 agreement, perplexity."""

from collections.abc import Sequence
from pathlib import Path

from device_runtime.manifest import PromptAnswer, Quality


def evaluate(model: Path, reference: Path) -> Quality:
    """Measure an ONNX GenAI folder against its original, on the CPU, with the device's kernels.

    Args:
        model: ONNX GenAI folder for the CPU.
        reference: folder that `evaluation_text.prepare` made.

    Raises:
        EvaluationError: the model does not run, has another vocabulary, or gives the logits of
            the last token only.
    """
    raise NotImplementedError


def answers(model: Path, reference: Path) -> tuple[PromptAnswer, ...]:
    """What both models say to the fixed prompts, greedily.

    Args:
        model: ONNX GenAI folder for the CPU.
        reference: folder that `evaluation_text.prepare` made.

    Raises:
        EvaluationError: the model does not run, or has another tokenizer.
    """
    raise NotImplementedError


def decode_speed(models: Sequence[Path]) -> list[float]:
    """Tokens a second that each of several ONNX GenAI folders decodes on this machine.

    They take turns in one process, so that the ratios are fair where the machine is not quiet.

    Raises:
        EvaluationError: a model does not run.
    """
    raise NotImplementedError

"""Families of models that see, and the texts and tokens of their images in prompts."""

from dataclasses import dataclass

PHI = "phi3v"
"""The family whose template takes text alone. The engine has negative ids for its images, -1 for
each token of the first, and tokenizes the texts around them each as a text of its own."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Images in the prompts of a family.

    Attributes:
        marker: text that the chat template writes for an image, and the processor takes for one.
        tokens: tokens that stand for parts of images, that of a beginning first, of an end last.
        around: text before and after those of an image.
        padded: whether images of different sizes are to be padded here: the engine cuts some of
            them off if none is the largest in both directions.
    """

    marker: str
    tokens: tuple[str, ...]
    around: str = ""
    padded: bool = False


_QWEN = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
MARKED = {
    "gemma3": Family(
        marker="<start_of_image>",
        tokens=("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
        around="\n\n",
    ),
    "lfm2_vl": Family(marker="<image>", tokens=("<|image_start|>", "<image>", "<|image_end|>")),
    "mistral3": Family(marker="[IMG]", tokens=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), padded=True),
    **dict.fromkeys(
        ("fara", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl"),
        Family(marker="".join(_QWEN), tokens=_QWEN),
    ),
}
FAMILIES = {PHI, *MARKED}
"""Types of models that see, as in genai_config.json."""

"""The types of models that see, as ONNX Runtime GenAI 0.18 names them, and how a prompt has images.

The engine's image processors find the places of images in a prompt by these texts. The list is that
of the program library (its strings), the texts are those of its sources and of the models' chat
templates.
"""

_QWEN = "<|vision_start|><|image_pad|><|vision_end|>"

MARKERS = {
    "fara": _QWEN,
    "gemma3": "<start_of_image>",
    "lfm2_vl": "<image>",
    "mistral3": "[IMG]",
    "phi3v": "<|image_1|>\n",
    "qwen2_5_vl": _QWEN,
    "qwen3_5": _QWEN,
    "qwen3_5_moe": _QWEN,
    "qwen3_vl": _QWEN,
}
"""Text in the place of the first image of a prompt, by type. Without `gemma4`, `gemma4_unified`,
`phi4mm` and `videochat_flash_qwen`, which were not tried."""

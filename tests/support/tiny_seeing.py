"""Tiny random models that see, as Hugging Face folders: Gemma 3, Mistral 3, LFM2-VL and
Qwen2.5-VL.

Their vision towers are large enough to do what those of the real models do.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import families
from tests.support.families import Family, text_models

GEMMA3_SIDE = 64
"""Side of the pictures of Gemma 3, pixels: 32 patches, of which 2 by 2 become a token."""

GEMMA3_WINDOW = 300
"""Window of the local layers of Gemma 3, tokens: more than a picture, less than two."""

MISTRAL3_EDGE = 140
"""Longest edge of the pictures of Mistral 3, pixels: 10 patches, of which 2 by 2 become a token."""

LFM2_TOKENS = 16
"""Most tokens of a picture of LFM2-VL, each of 2 by 2 patches of 16 by 16 pixels."""

QWEN2_5_TOKENS = 40
"""Most tokens of a picture of Qwen2.5-VL, each of 2 by 2 patches of 14 by 14 pixels."""

_GEMMA3_MARKUP = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_PICTURE = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
}


def make_gemma3(folder: Path) -> Path:
    """Write a Gemma 3; returns its folder."""
    tower = {"image_size": GEMMA3_SIDE, "patch_size": 2, "vision_use_head": False}
    ids = _write(folder, "gemma3", tower, markup=_GEMMA3_MARKUP, sliding_window=GEMMA3_WINDOW)
    _heed_pictures(folder)
    boi, eoi, image = (ids[token] for token in _GEMMA3_MARKUP)
    change(
        folder / "config.json",
        mm_tokens_per_image=256,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=image,
        eos_token_id=[1, ids["<end_of_turn>"]],
    )
    names = dict(zip(("boi_token", "eoi_token", "image_token"), _GEMMA3_MARKUP, strict=True))
    change(folder / "tokenizer_config.json", **names, extra_special_tokens=names)
    change(
        folder / "preprocessor_config.json",
        **_PICTURE,
        image_processor_type="Gemma3ImageProcessor",
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        image_seq_length=256,
        resample=2,
        size={"height": GEMMA3_SIDE, "width": GEMMA3_SIDE},
    )
    return folder


def make_mistral3(folder: Path) -> Path:
    """Write a Mistral 3; returns its folder."""
    tower = {"image_size": MISTRAL3_EDGE}
    first = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    _write(folder, "mistral3", tower, first=first)
    picture = {
        **_PICTURE,
        "image_processor_type": "PixtralImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "resample": 3,
        "size": {"longest_edge": MISTRAL3_EDGE},
    }
    change(
        folder / "processor_config.json",
        image_processor=picture,
        patch_size=14,
        spatial_merge_size=2,
        processor_class="PixtralProcessor",
    )
    return folder


def make_lfm2_vl(folder: Path) -> Path:
    """Write an LFM2-VL; returns its folder."""
    tower = {"patch_size": 16, "num_patches": 64, "vision_use_head": False}
    markup = ("<|image_start|>", "<|image_end|>", "<image>")
    ids = _write(folder, "lfm2_vl", tower, markup=markup)
    change(folder / "config.json", image_token_id=ids["<image>"])
    change(
        folder / "preprocessor_config.json",
        **_PICTURE,
        image_processor_type="Lfm2VlImageProcessorFast",
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=2,
        min_image_tokens=4,
        max_image_tokens=LFM2_TOKENS,
    )
    return folder


def make_qwen2_5_vl(folder: Path) -> Path:
    """Write a Qwen2.5-VL whose windows are 2 by 2 tokens; returns its folder.

    As the publisher's, its configuration has the fields of the text model beside the others.
    """
    tower = {"depth": 3, "fullatt_block_indexes": [1], "window_size": 56}
    kinds = ("vision_start", "vision_end", "image", "video")
    markup = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    scaling = {"type": "mrope", "mrope_section": [2, 3, 3]}
    ids = _write(folder, "qwen2_5_vl", tower, markup=markup, rope_scaling=scaling)
    path = folder / "config.json"
    whole = json.loads(path.read_text())
    fields = {**whole.pop("text_config"), **whole}
    fields |= {f"{kind}_token_id": ids[token] for kind, token in zip(kinds, markup, strict=True)}
    path.write_text(json.dumps(fields, indent=2))
    change(
        folder / "preprocessor_config.json",
        **_PICTURE,
        image_processor_type="Qwen2VLImageProcessor",
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        min_pixels=4 * 28**2,
        max_pixels=QWEN2_5_TOKENS * 28**2,
    )
    return folder


def _write(
    folder: Path,
    model_type: str,
    tower: dict[str, Any],
    *,
    first: tuple[str, ...] = (),
    markup: tuple[str, ...] = (),
    **config: Any,
) -> dict[str, int]:
    """Write a family's model with a larger vision tower and more tokens; returns the tokens."""
    family = _family(model_type)
    around = family.around or {}
    vision = {**around["vision_config"], "num_hidden_layers": 2, **tower}
    tokenizer = replace(
        family.tokenizer,
        first=(*family.tokenizer.first, *first),
        markup=(*family.tokenizer.markup, *markup),
    )
    larger = replace(
        family,
        config={**family.config, **config},
        around={**around, "vision_config": vision},
        tokenizer=tokenizer,
    )
    families.make_hf(larger, folder)
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    return {token["content"]: int(number) for number, token in added.items()}


def _heed_pictures(folder: Path) -> None:
    """Raise the weight of layers and pictures, or an answer would repeat one token."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name, weight in tensors.items():
        if "post_attention_layernorm" in name or "post_feedforward_layernorm" in name:
            weight += 8
        elif name.endswith("mm_input_projection_weight"):
            weight *= 3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _family(model_type: str) -> Family:
    (family,) = (other for other in text_models.TEXT_MODELS if other.model_type == model_type)
    return family


def copy(source: Path, target: Path) -> Path:
    """Copy a folder, to be changed; returns the copy."""
    return Path(shutil.copytree(source, target))


def change(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file, which may be a new one."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | changes, indent=2))

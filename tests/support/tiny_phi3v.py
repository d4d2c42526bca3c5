"""A tiny random Phi-3-vision model in a folder like its publisher's, and what torch makes of it.

The size of pictures, crops and patches is that of the real models: the engine's image transform has
it built in. Widths and layers are small.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.families import templates, tokenizer_files, tokenizers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL.Image import Image as Picture

CROP = 336
SWITCH = 4096
HIDDEN = 64
WIDTH = 128
LAYERS = 3
"""Layers of the vision transformer: the last is stored, and not used."""

_PREFIX = "model.vision_embed_tokens."
_MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
TOKENIZER = replace(
    tokenizers.PHI3, markup=(*tokenizers.PHI3.markup, "<|placeholder1|>", "<|image|>")
)
CONFIG: dict[str, Any] = {
    "architectures": ["Phi3VForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_phi3_v.Phi3VConfig",
        "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    },
    "model_type": "phi3_v",
    "torch_dtype": "bfloat16",
    "embd_layer": {
        "embedding_cls": "image",
        "hd_transform_order": "sub_glb",
        "projection_cls": "mlp",
        "use_hd_transform": True,
        "with_learnable_separator": True,
    },
    "img_processor": {
        "image_dim_out": WIDTH,
        "model_name": "openai/clip-vit-large-patch14-336",
        "name": "clip_vision_model",
        "num_img_tokens": 144,
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "max_position_embeddings": 32 * SWITCH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "original_max_position_embeddings": SWITCH,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "type": "su",
        "short_factor": [1.0 + 0.15 * index for index in range(8)],
        "long_factor": [1.1 + 7.5 * index for index in range(8)],
    },
    "rope_theta": 10000.0,
    "sliding_window": 32 * SWITCH,
    "tie_word_embeddings": False,
    "transformers_version": "4.38.1",
}


def make_hf(folder: Path) -> Path:
    """Write the Hugging Face folder; returns it."""
    import torch
    from safetensors.torch import save_file

    config = write_files(folder, CONFIG)
    noise = torch.Generator().manual_seed(0)
    shapes = Reference(config).tensors()
    weights = {name: _random(name, tensor, noise) for name, tensor in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_files(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write all files of the folder but the weights; returns the whole configuration."""
    folder.mkdir(parents=True)
    files = {
        **TOKENIZER.config,
        "chat_template": templates.PHI3,
        "processor_class": "Phi3VProcessor",
    }
    vocabulary = tokenizer_files.write(TOKENIZER, folder, files)
    config = {
        "pad_token_id": vocabulary["<|endoftext|>"],
        "vocab_size": len(vocabulary) + (-len(vocabulary)) % 32,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    ends = [vocabulary[token] for token in ("<|endoftext|>", "<|end|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    preprocessor = {
        "auto_map": {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"},
        "do_convert_rgb": True,
        "image_mean": _MEAN,
        "image_processor_type": "Phi3VImageProcessor",
        "image_std": DEVIATION,
        "num_crops": 4,
        "num_img_tokens": 144,
        "processor_class": "Phi3VProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for name in ("configuration_phi3_v.py", "modeling_phi3_v.py", "processing_phi3_v.py"):
        (folder / name).write_text("raise AssertionError('code of the model was run')\n")
    return config


def _random(name: str, tensor: "torch.Tensor", noise: Any) -> "torch.Tensor":
    """A weight such that the last token and pictures alike decide what the next one is."""
    import torch

    values = torch.randn(tensor.shape, generator=noise)
    if tensor.ndim == 1:
        return (tensor + 0.3 * values).bfloat16()
    gain = 1.5 / tensor[0].numel() ** 0.5
    for part, own in {"model.embed_tokens": 3.0, "position_embedding": 0.4, "_GN": 0.4}.items():
        gain = own if part in name else gain
    random: torch.Tensor = (gain * values).bfloat16()
    return random


class Reference:
    """The model in torch: transformers' own CLIP and Phi-3, and what is between them in loops.

    Attributes:
        vit: the vision transformer.
        text: the text model.
    """

    def __init__(self, config: dict[str, Any], layers: int = LAYERS) -> None:
        import torch
        from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

        width, hidden = config["img_processor"]["image_dim_out"], config["hidden_size"]
        self.vit = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                image_size=CROP,
                patch_size=14,
                hidden_act="quick_gelu",
            )
        ).eval()
        own = {k: v for k, v in config.items() if k not in ("model_type", "auto_map")}
        scaling = {**config["rope_scaling"], "type": "longrope"}
        self.text = Phi3ForCausalLM(Phi3Config(**{**own, "rope_scaling": scaling})).eval()
        self.projection = torch.nn.Sequential(
            torch.nn.Linear(4 * width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
        )
        self.sub = torch.zeros(1, 1, 1, 4 * width)
        self.glb = torch.zeros(1, 1, 4 * width)

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """Load a folder of `make_hf`, in fp32."""
        from safetensors.torch import load_file
        from transformers import GenerationConfig

        model = cls(json.loads((folder / "config.json").read_text()))
        stored = load_file(folder / "model.safetensors")
        own = model.tensors()
        assert set(own) == set(stored)
        for name, tensor in own.items():
            tensor.copy_(stored[name])
        model.text.generation_config = GenerationConfig.from_pretrained(folder)
        return model

    def tensors(self) -> "dict[str, torch.Tensor]":
        """The weights by the names that the publisher gives them."""
        clip = f"{_PREFIX}img_processor.vision_model."
        return {
            **self.text.state_dict(),
            **{f"{clip}{name}": tensor for name, tensor in self.vit.state_dict().items()},
            **{
                f"{_PREFIX}img_projection.{name}": tensor
                for name, tensor in self.projection.state_dict().items()
            },
            f"{_PREFIX}sub_GN": self.sub,
            f"{_PREFIX}glb_GN": self.glb,
        }

    def features(self, pixels: "torch.Tensor", sizes: "torch.Tensor") -> "torch.Tensor":
        """The features of all pictures, one after the other [tokens, hidden]."""
        import torch

        features = []
        for crops, (height, width) in zip(pixels, sizes.tolist(), strict=True):
            rows, columns = height // CROP, width // CROP
            detailed = [
                torch.cat(
                    [self._states(crops[1 + row * columns + column]) for column in range(columns)],
                    1,
                )
                for row in range(rows)
            ]
            features += [
                self._lines(torch.cat(detailed, 0)),
                self.glb[0],
                self._lines(self._states(crops[0])),
            ]
        with torch.no_grad():
            projected: torch.Tensor = self.projection(torch.cat(features))
        return projected

    def _states(self, crop: "torch.Tensor") -> "torch.Tensor":
        """The states of a crop [24, 24, width]: those that the last layer would take."""
        import torch

        with torch.no_grad():
            layers = self.vit(crop[None], output_hidden_states=True).hidden_states
        states: torch.Tensor = layers[-2][0, 1:]
        return states.reshape(24, 24, -1)

    def _lines(self, states: "torch.Tensor") -> "torch.Tensor":
        """Joined states, line by line, with a separator after each line."""
        import torch

        lines = []
        for y in range(0, states.shape[0], 2):
            for x in range(0, states.shape[1], 2):
                square = [states[y + down, x + right] for down in (0, 1) for right in (0, 1)]
                lines.append(torch.cat(square))
            lines.append(self.sub[0, 0, 0])
        return torch.stack(lines)

    def generate(
        self, ids: "torch.Tensor", features: "torch.Tensor", tokens: int
    ) -> "tuple[list[int], npt.NDArray[np.float32]]":
        """Greedy tokens that do not end a text, and the logits they have been chosen by.

        Args:
            ids: token ids [n]; those below zero stand for the features, in their order.
            features: as `features` returns them.
            tokens: how many.
        """
        import torch

        with torch.no_grad():
            embeds = self.text.get_input_embeddings()(ids.clamp(min=0))
            embeds[ids < 0] = features
            output = self.text.generate(
                inputs_embeds=embeds[None],
                attention_mask=torch.ones((1, len(ids)), dtype=torch.int64),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        return output.sequences[0].tolist(), torch.stack(output.scores)[:, 0].numpy()


def prepare(picture: "Picture", crops: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Cut a picture as the publisher's code does, with Pillow and torch.

    Returns:
        Crops [crops + 1, 3, 336, 336], and height and width of the picture that was cut.
    """
    import numpy as np
    import torch
    from PIL import Image

    picture = picture.convert("RGB")
    tall = picture.height > picture.width
    if tall:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    ratio = picture.width / picture.height
    columns = 1
    while (columns + 1) * -(-(columns + 1) // ratio) <= crops:
        columns += 1
    width = columns * CROP
    height = int(width / ratio)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    padded = Image.new("RGB", (width, -(-height // CROP) * CROP), (255, 255, 255))
    padded.paste(picture, (0, (padded.height - height) // 2))
    if tall:
        padded = padded.transpose(Image.Transpose.TRANSPOSE)
    scaled = torch.from_numpy(np.asarray(padded) / np.float32(255)).permute(2, 0, 1)
    pixels = (scaled - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    whole = torch.nn.functional.interpolate(pixels[None], (CROP, CROP), mode="bicubic")
    cut = [
        pixels[None, :, y : y + CROP, x : x + CROP]
        for y in range(0, padded.height, CROP)
        for x in range(0, padded.width, CROP)
    ]
    padding = torch.zeros((crops - len(cut), 3, CROP, CROP))
    return torch.cat([whole, *cut, padding]), torch.tensor([padded.height, padded.width])

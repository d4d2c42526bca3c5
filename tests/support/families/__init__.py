"""Tiny random models of every family that edgepack promises, each with a tokenizer of its kind.

The configurations are those of the real models, scaled down. What makes a family special stays:
soft caps, norms of queries and keys, layers without positions, two sets of rotary factors, and
windows of their real size, before which, across which and after which a model must be right.
"""

import json
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from tests.support.families.tokenizer_files import TokenizerSpec, write

WINDOW = 16
"""A window that comes into play within the few tokens of a test."""

SWITCH = 4096
"""Where Phi-3.5 goes from its short to its long rotary factors. ONNX Runtime GenAI has this number
built in, so it is not scaled down."""

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}

GEMMA_CONFIG: dict[str, Any] = {
    # No square number: the embedding is scaled by its root.
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "head_dim": 32,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 1,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        name: for people.
        architecture: as config.json names it.
        model_type: likewise.
        special: what of it must come out right.
        examples: models of it.
        config: what differs from `SMALL`.
        around: of a model that also sees: its configuration around that of the text model, whose
            type is `text_config.model_type` there.
        tokenizer: the tokenizer, of `families.tokenizers`.
        template: chat template; None for a model that knows no chat.
        system: whether the template takes a system message.
        prompt_tokens: lengths of the prompts of the greedy test.
    """

    name: str
    architecture: str
    model_type: str
    _: KW_ONLY
    special: str
    examples: str
    config: dict[str, Any]
    tokenizer: TokenizerSpec
    template: str | None
    system: bool = True
    around: dict[str, Any] | None = None
    prompt_tokens: tuple[int, ...] = (40,)

    @property
    def thinks(self) -> bool:
        """The template switches thinking."""
        return "enable_thinking" in (self.template or "")

    @property
    def window(self) -> int:
        """Tokens that a layer with a sliding window sees; 0 if no context exceeds that."""
        used = self.config.get("use_sliding_window", True) and self.config.get("sliding_window")
        context: int = {**SMALL, **self.config}["max_position_embeddings"]
        return used if used and used < context else 0


_ASK = "What is  the capital of France?\n\nSay \"yes\" & <b>no</b> — c'est ça, n'est-ce pas?"
_ANSWER = "Paris, of course!  你好,世界 🤖 Straße\tfin"
_ASK_AGAIN = 'Привет! ¿Dónde está 今日は? 12345 {"a": [1, 2]}  '
_CHAT = [
    {"role": "user", "content": _ASK},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _ASK_AGAIN},
]
_MARKUP = "<s>x</s><|im_end|>\n<|end|> <end_of_turn> [INST] <|eot_id|> ﬁ \u00a0 \u3000 \u200d"
CONVERSATIONS = {
    "a question": _CHAT[:1],
    "a conversation": _CHAT,
    "a system message": [{"role": "system", "content": "You're a pirate: 'arr' 100%."}, *_CHAT],
    "a system message with a switch": [{"role": "system", "content": "Arr. /no_think"}, *_CHAT[:1]],
    "thoughts in an earlier answer": [
        _CHAT[0],
        {"role": "assistant", "content": "<think>\nHm, Paris?\n</think>\n\nParis."},
        _CHAT[2],
    ],
    "markup in the text": [{"role": "user", "content": _MARKUP}],
    "an empty question": [{"role": "user", "content": ""}],
    "white space around": [{"role": "user", "content": "  \n hello \n\n"}],
}
TEXTS = ("Hello, world! 100%", _ASK, _ANSWER, _ASK_AGAIN)


def make_hf(family: Family, folder: Path) -> Path:
    """Write a Hugging Face folder of a family, as its real models have it; returns it."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig

    folder.mkdir(parents=True)
    specials = family.tokenizer.config
    files = {"model_max_length": 1000000000000000019884624838656, **specials}
    if family.template is not None:
        files["chat_template"] = family.template
    vocabulary = write(family.tokenizer, folder, files)
    ids = {
        f"{kind}_token_id": vocabulary.get(specials.get(f"{kind}_token") or "")
        for kind in ("bos", "eos", "pad")
    }
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "dtype": "bfloat16",
        "vocab_size": len(vocabulary) + (-len(vocabulary)) % 32,
        **SMALL,
        **{name: number for name, number in ids.items() if number is not None},
        **family.config,
    }
    if family.around is not None:
        config = {
            "architectures": [family.architecture],
            "model_type": family.model_type,
            "dtype": "bfloat16",
            "tie_word_embeddings": config["tie_word_embeddings"],
            **family.around,
            "text_config": {**config, **family.around["text_config"]},
        }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generator = torch.Generator().manual_seed(0)
    model = load_class(family).from_config(AutoConfig.from_pretrained(folder))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    scale = 0.05 if "gemma" in family.model_type else 0.4
    weights = {
        name: _random(name, parameter, generator, scale)
        for name, parameter in model.state_dict().items()
        if not (tied and name.startswith("lm_head"))
    }
    if family.around is None:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        # transformers writes the names that publishers use, which are not those in its classes.
        model.save_pretrained(folder, state_dict=weights)
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def load_class(family: Family) -> Any:
    """The class of transformers that loads a family's whole model."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if family.around else AutoModelForCausalLM


def _random(name: str, parameter: Any, generator: Any, scale: float) -> Any:
    """A weight such that every part of the model matters, and no two logits are near each other."""
    import torch

    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim == 1:
        return (parameter + 0.3 * noise).bfloat16()
    # Embeddings small against what the layers add, so that the answer is not the question.
    outer = "embed" in name or "lm_head" in name
    gain = scale if outer else 1.5 / parameter.shape[1] ** 0.5
    return (gain * noise).bfloat16()

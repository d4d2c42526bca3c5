"""Build the tiny models of all families, and note what transformers makes of them.

    python -m tests.support.families.builds FOLDER

One process for all, since importing torch, transformers and the model builder takes longer than
building a hundred such models. In FOLDER, each family gets a folder with `hf`, `fp32`, `int8`,
`int4` and `expected.npz`; each of `variants.VARIANTS` has no quantized models.
"""

import json
import sys
from pathlib import Path
from typing import Any

from packager.jobs.build_onnx import BuildOnnx, Weights
from packager.jobs.extract_text import ExtractText
from packager.jobs.job import Work
from packager.models.folder import hf_files
from packager.models.text_model import unchanged
from packager.recipes.providers import PASS_PROVIDERS
from packager.recipes.recipes import RECIPES, Recipe
from tests.support import families
from tests.support.families import Family
from tests.support.families.models import FAMILIES
from tests.support.families.variants import OTHERS, VARIANTS
from tests.support.jobs import forget_builder

TOKENS = 32
MARGIN = 2e-3
"""Between the logits of the two likeliest tokens. With less, a test would tell of rounding."""
BLOCK_SIZE = 32
PRECISIONS = {"int8": "int8", "int4": "int4-rtn"}


def build(
    hf: Path,
    target: Path,
    recipe: Recipe,
    provider: str = "cpu",
    calibrated: Path | None = None,
) -> None:
    """Build what edgepack builds for a recipe, in this process."""
    weights = None
    options = {"hf_token": "false", "hf_remote": "false"}
    if recipe.algorithm is not None:
        options |= {"block_size": str(BLOCK_SIZE), "accuracy_level": "4"}
    if recipe.algorithm is not None and provider in PASS_PROVIDERS:
        weights = Weights(
            algorithm=recipe.algorithm,
            body_bits=recipe.body_bits,
            head_bits=recipe.head_bits,
            embedding_bits=recipe.embedding_bits,
            block_size=BLOCK_SIZE,
            symmetric=recipe.symmetric,
            accuracy_level=4,
            calibrated=calibrated,
        )
    job = BuildOnnx(
        source=hf,
        precision=recipe.precision,
        execution_provider=provider,
        options=options,
        weights=weights,
    )
    forget_builder()
    job.run(Work(target))


def text_model(family: Family, hf: Path, target: Path) -> Path:
    """What edgepack builds from: the folder itself, or its text model, in the target."""
    if family.around is None:
        return hf
    target.mkdir()
    ExtractText(source=hf, copied=unchanged(hf_files(hf))).run(Work(target))
    return target


def expected(family: Family, hf: Path) -> dict[str, Any]:
    """What transformers says: greedy tokens after random prompts, and the logits of the first.

    Random numbers and rounding differ between processors. So of many prompts the first is taken
    whose text tells of more than rounding, or than one token again and again.
    """
    import numpy as np
    import torch

    model = families.load_class(family).from_pretrained(hf, dtype=torch.float32)
    words = model.config.get_text_config().vocab_size
    random = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for length in family.prompt_tokens:
        for _ in range(100):
            prompt = random.integers(10, words, size=length)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=torch.tensor(prompt)[None],
                    attention_mask=torch.ones((1, length), dtype=torch.int64),
                    max_new_tokens=TOKENS,
                    min_new_tokens=TOKENS,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            tokens = output.sequences[0, length:].numpy()
            logits = torch.stack(output.logits)[:, 0]
            top = logits.topk(2).values
            if (top[:, 0] - top[:, 1]).min() > MARGIN and len(set(tokens.tolist())) > TOKENS / 8:
                break
        else:
            raise AssertionError(f"{family.name}: all texts hang on rounding, or repeat a token")
        found[f"prompt-{length}"] = prompt
        found[f"tokens-{length}"] = tokens
        found[f"logits-{length}"] = logits[0].numpy()
    return found


def templates(hf: Path) -> dict[str, Any]:
    """What transformers makes of conversations and of plain text: token ids; None for a refusal."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hf)
    found: dict[str, Any] = {text: tokenizer(text)["input_ids"] for text in families.TEXTS}
    for name, messages in families.CONVERSATIONS.items() if tokenizer.chat_template else ():
        try:
            found[name] = tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except Exception:
            found[name] = None
    for value in (True, False) if "enable_thinking" in (tokenizer.chat_template or "") else ():
        found[f"thinking: {value}"] = tokenizer.apply_chat_template(
            families.CONVERSATIONS["a conversation"],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
            enable_thinking=value,
        )
    return found


def main(folder: Path) -> None:
    """Build everything."""
    import numpy as np

    for family in (*FAMILIES.values(), *VARIANTS.values(), *OTHERS.values()):
        here = folder / family.name
        hf = families.make_hf(family, here / "hf")
        source = text_model(family, hf, here / "text")
        build(source, here / "fp32", RECIPES["fp32"])
        np.savez(here / "expected.npz", **expected(family, hf))
        if family.name in FAMILIES:
            (here / "templates.json").write_text(json.dumps(templates(hf)))
        if family.name not in VARIANTS:
            for precision, recipe in PRECISIONS.items():
                build(source, here / precision, RECIPES[recipe])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The recipes: how weights are quantized, as data.

A recipe is independent of the model and of the device. `build_onnx` carries it out; `ladder` tries
several, smallest first.
"""

from dataclasses import dataclass
from typing import Literal

from packager.errors import QuantizeError
from packager.recipes.nodes import EMBEDDING, HEAD
from packager.suggest import suggest

Algorithm = Literal["nearest", "own", "kquant", "gptq", "gguf"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Storage of a model's weights.

    Attributes:
        name: name for `--recipe`.
        description: human-readable description, one line.
        precision: the model builder's name of the dtype.
        algorithm: how the codes of the body are found: rounded to the nearest, on the grid that
            the weights lie on already, fitted by weighted least squares, calibrated (GPTQ), or
            those of the model's GGUF file. None for float weights.
        body_bits: of the decoder layers' MatMuls.
        head_bits: of the language modelling head.
        embedding_bits: of the embedding; a model with tied embeddings stores one weight for both
            if this equals `head_bits`, and two if not.
        symmetric: without zero points.
        sensitive: part of the model that gets 8 bits: a share of its weights, the most sensitive
            linear layers as measured in calibration, of which the head can be one; or `usual`,
            those of the body in `usually_sensitive`; or 0, none.

    Raises:
        QuantizeError: the algorithm cannot choose what `sensitive` asks for.
    """

    name: str
    description: str
    precision: str
    algorithm: Algorithm | None = None
    body_bits: int = 4
    head_bits: int = 4
    embedding_bits: int = 4
    symmetric: bool = False
    sensitive: float | Literal["usual"] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.sensitive, str):
            valid = self.algorithm in ("nearest", "kquant")
            hint = "Give a share of the weights, or take the algorithm nearest or kquant."
        else:
            valid = self.sensitive == 0 or (self.calibrated and 0 < self.sensitive < 1)
            hint = 'Give "usual": only calibration (gptq) measures which layers are sensitive.'
        if not valid:
            raise QuantizeError(
                f"recipe {self.name}: sensitive must not be {self.sensitive!r} with the algorithm "
                f"{self.algorithm}",
                hint=hint,
            )

    def bits(self, node: str) -> tuple[int, ...]:
        """Return the bit widths that a node of the graph may have."""
        if self.algorithm == "gguf":
            return (4, 8)
        outer = {HEAD: self.head_bits, EMBEDDING: self.embedding_bits}.get(node)
        bits = self.body_bits if outer is None else outer
        mixed = self.calibrated or outer is None
        return (bits, 8) if self.sensitive and mixed else (bits,)

    @property
    def plain(self) -> bool:
        """True if the model builder's own quantizer can carry out the recipe."""
        return self.algorithm == "nearest" and self.symmetric and not self.sensitive

    @property
    def calibrated(self) -> bool:
        """True if text must be run through the model to find the codes."""
        return self.algorithm == "gptq"


KEEP = "gguf"
"""Keep the codes of a GGUF file."""

OWN_GRID = "int4-own"
"""Keep the grid that float weights lie on."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="int4-rtn",
            description="4 bits, symmetric, rounded to the nearest",
            precision="int4",
            algorithm="nearest",
            symmetric=True,
        ),
        Recipe(
            name=OWN_GRID,
            description="4 bits, on the grid that the model was trained for; head 8 bits",
            precision="int4",
            algorithm="own",
            head_bits=8,
            embedding_bits=8,
            symmetric=True,
        ),
        Recipe(
            name="int4-kquant",
            description="4 bits with zero points, fitted by weighted least squares",
            precision="int4",
            algorithm="kquant",
        ),
        Recipe(
            name="int4-gptq",
            description="4 bits with zero points, calibrated",
            precision="int4",
            algorithm="gptq",
        ),
        Recipe(
            name="int4-mixed",
            description="4 bits with zero points; head and sensitive layers 8 bits",
            precision="int4",
            algorithm="kquant",
            head_bits=8,
            embedding_bits=8,
            sensitive="usual",
        ),
        Recipe(
            name="int4-gptq-light",
            description="calibrated 4 bits; what costs the model most has 8 bits, up to 6 %",
            precision="int4",
            algorithm="gptq",
            sensitive=0.06,
        ),
        Recipe(
            name="int4-gptq-mixed",
            description="calibrated 4 bits; what costs the model most has 8 bits, up to 37 %",
            precision="int4",
            algorithm="gptq",
            sensitive=0.37,
        ),
        Recipe(
            name="int8",
            description="8 bits, symmetric",
            precision="int8",
            algorithm="nearest",
            body_bits=8,
            head_bits=8,
            embedding_bits=8,
            symmetric=True,
        ),
        Recipe(
            name=KEEP,
            description="the GGUF file's own codes, 4 or 8 bits",
            precision="int4",
            algorithm="gguf",
            body_bits=8,
            head_bits=8,
            embedding_bits=8,
        ),
        Recipe(name="fp16", description="16-bit floats", precision="fp16"),
        Recipe(name="fp32", description="32-bit floats", precision="fp32"),
    )
}

AUTO = "auto"
"""Try the ladder and take the smallest that passes the profile's limits."""

LADDER = (KEEP, OWN_GRID, "int4-rtn", "int4-gptq-light", "int4-gptq-mixed", "int8")
"""Recipes that `auto` tries: a GGUF file's own codes, or a model's own grid, where they can be
kept, then the smallest first. The others are available by name: on the measured models,
`int4-kquant` and `int4-mixed` lose to a recipe of their size in this list, and `int4-gptq` saves
5 % of the bytes of `int4-gptq-light` for a KL divergence that is half as large again."""


def find(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        QuantizeError: there is no such recipe.
    """
    if name not in RECIPES:
        raise QuantizeError(f"there is no recipe {name!r}", hint=suggest(name, [AUTO, *RECIPES]))
    return RECIPES[name]


def usually_sensitive(layers: int) -> tuple[str, ...]:
    """Return the linear layers that are sensitive in most models, as `LAYER.NAME`.

    They are values and down projections of the first and last eighth of the decoder and of every
    third layer between (the choice of llama.cpp's k-quant mixes).

    Args:
        layers: number of decoder layers.
    """
    edge = layers / 8
    chosen = [
        layer
        for layer in range(layers)
        if layer < edge or layer >= 7 * edge or (layer - round(edge)) % 3 == 2
    ]
    names = ("self_attn.qkv_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.fc2")
    return tuple(f"{layer}.{name}" for layer in chosen for name in names)

"""Build one tiny model in every precision for every execution provider.

    python -m tests.support.provider_builds HF FOLDER

In FOLDER each of `CASES` gets a folder `PROVIDER-PRECISION`, or a file with `.txt` with what the
model builder said instead. One process for all, see `tests.support.families.builds`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from packager.recipes.providers import PASS_PROVIDERS, PRECISIONS
from packager.recipes.recipes import RECIPES
from tests.support.families.builds import build

ASKED = ("int4", "int8", "fp16", "fp32")
CASES = [(provider, precision) for provider in PRECISIONS for precision in ASKED]
MADE = [(provider, precision) for provider, precision in CASES if precision in PRECISIONS[provider]]
_RECIPES = {"int4": "int4-rtn", "int8": "int8", "fp16": "fp16", "fp32": "fp32"}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What a graph for a provider and precision is to be.

    Attributes:
        attention: the operator.
        rotary: operators beside it; 0 where the attention does it itself.
        floats: element type of logits and cache.
        bits: of its MatMulNBits; 0 for float MatMuls.
        embedding: operator that looks it up.
        options: of the provider, in genai_config.json; None for none.
    """

    attention: str
    rotary: int
    floats: str
    bits: int
    embedding: str
    options: dict[str, dict[str, str]] | None


_OPTIONS = {
    "cpu": None,
    "cuda": {"cuda": {"enable_cuda_graph": "0"}},
    "dml": {"dml": {"enable_graph_capture": "1"}},
    "webgpu": {"webgpu": {"enableGraphCapture": "0", "validationMode": "basic"}},
    "NvTensorRtRtx": {"NvTensorRtRtx": {"enable_cuda_graph": "1"}},
}


def expected(provider: str, precision: str) -> Graph:
    """What the graph of a case that is made must look like."""
    quantized = precision in ("int4", "int8")
    half = provider != "cpu" and precision != "fp32"
    fused = provider == "cpu" or half
    # edgepack's own pass shares the embedding with the head; the builder's does so for 4 bits.
    shared = quantized and (provider in PASS_PROVIDERS or precision == "int4")
    return Graph(
        attention="GroupQueryAttention" if fused else "MultiHeadAttention",
        rotary=0 if fused and provider != "dml" else 4,
        floats="FLOAT16" if half else "FLOAT",
        bits=int(precision.removeprefix("int")) if quantized else 0,
        embedding="GatherBlockQuantized" if shared else "Gather",
        options=_OPTIONS[provider],
    )


def main(hf: Path, folder: Path) -> None:
    """Build everything, or note why not."""
    # edgepack's own pass stays in the builder's place once it was asked for: it comes last.
    for provider, precision in sorted(CASES, key=lambda case: case[0] in PASS_PROVIDERS):
        target = folder / f"{provider}-{precision}"
        try:
            build(hf, target, RECIPES[_RECIPES[precision]], provider)
        except Exception as error:
            target.with_suffix(".txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

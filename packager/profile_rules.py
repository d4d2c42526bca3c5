"""What may stand in a profile: a rule for each key, and rules for keys that must fit together."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from packager.suggest import nearest

PRECISIONS = {
    "cpu": ("fp32", "int8", "int4"),
    "cuda": ("fp32", "fp16", "bf16", "int8", "int4"),
    "dml": ("fp16", "int4"),
    "webgpu": ("int8", "int4"),
    "NvTensorRtRtx": ("fp16", "bf16"),
}
"""Execution providers, and the precisions that the model builder makes for each."""

QUANTIZATION_OPTIONS = (
    *("accuracy_level", "algo_config", "block_size", "enable_cuda_graph", "is_symmetric"),
    *("matmul_mixed_precision", "matmulnbits_weights_prepacked", "moe_quant_type"),
    *("nodes_to_exclude", "op_types_to_quantize", "prune_lm_head", "qmoe_block_size"),
    *("shared_embeddings", "use_cuda_bf16", "use_qdq", "use_webgpu_fp32"),
)
"""The extra options of the model builder that shape weights and graph."""


def _integer(low: int, high: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if right else f"must be a whole number from {low} to {high}"

    return check


def _text(pattern: str, says: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        right = isinstance(value, str) and re.fullmatch(pattern, value)
        return "" if right else f"must be {says}"

    return check


def _one_of(choices: list[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        return "" if value in choices else f"must be one of {', '.join(choices)}"

    return check


def _seconds(value: Any) -> str:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 86400
    return "" if right else "must be a number of seconds from 1 to 86400"


def _compatible(value: Any) -> str:
    right = (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(one, str) and re.fullmatch(r"[a-z0-9][a-z0-9,._+-]*", one) for one in value
        )
    )
    return "" if right else 'must be a list of names such as "raspberrypi,5-model-b"'


def _listen(value: Any) -> str:
    found = re.fullmatch(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", str(value))
    right = isinstance(value, str) and found and int(found[1]) <= 65535
    return "" if right else 'must be "host:port" with a port up to 65535'


def _table(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be a table"


_RULES: dict[str, Callable[[Any], str]] = {
    "name": _text(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}", "a name of letters, digits, '.', '_', '-'"),
    "description": _text(r"[^\n]{1,200}", "one line of text"),
    "kit": _text(r"[a-z0-9][a-z0-9_-]*", 'the name of a kit, such as "linux-aarch64-cpu"'),
    "compatible": _compatible,
    "execution_provider": _one_of(list(PRECISIONS)),
    "precision": _one_of(sorted({each for valid in PRECISIONS.values() for each in valid})),
    "quantization": _table,
    "context_length": _integer(16, 1 << 20),
    "memory_budget_mb": _integer(64, 1 << 20),
    "threads": _integer(0, 1024),
    "listen": _listen,
    "max_tokens": _integer(1, 1 << 20),
    "status_interval_s": _seconds,
}


def problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that is wrong: keys, and what is wrong with each."""
    found = [(key, f"unknown key{nearest(key, _RULES)}") for key in values if key not in _RULES]
    for key, rule in _RULES.items():
        if key in values:
            wrong = rule(values[key])
            if wrong:
                found.append((key, f"{wrong}, not {values[key]!r}"))
        elif key != "kit":
            found.append((key, "is missing"))
    provider, precision = values.get("execution_provider"), values.get("precision")
    valid = PRECISIONS.get(provider, ()) if isinstance(provider, str) else ()
    if valid and isinstance(precision, str) and precision not in valid:
        found.append(("precision", f"{provider} takes {', '.join(valid)}, not {precision!r}"))
    options = values.get("quantization")
    for option, value in options.items() if isinstance(options, dict) else ():
        key = f"quantization.{option}"
        if option not in QUANTIZATION_OPTIONS:
            found.append((key, f"unknown option{nearest(option, QUANTIZATION_OPTIONS)}"))
        elif not isinstance(value, str | int):
            found.append((key, f"must be a string, a whole number or true/false, not {value!r}"))
    length, tokens = values.get("context_length"), values.get("max_tokens")
    if isinstance(length, int) and isinstance(tokens, int) and tokens >= length > 0:
        found.append(("max_tokens", f"must be below context_length ({length}), not {tokens}"))
    return found

"""What may stand in a profile: a rule for each key, and rules for keys that must fit together."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from packager.recipes.providers import PRECISIONS, refusal
from packager.recipes.recipes import AUTO, RECIPES
from packager.suggest import nearest

QUANTIZATION_OPTIONS = {
    "block_size": (16, 32, 64, 128),
    "accuracy_level": (0, 1, 2, 3, 4),
    "enable_cuda_graph": (True, False),
    "use_cuda_bf16": (True, False),
    "use_webgpu_fp32": (True, False),
}
"""What of the quantized graph belongs to the device and not to the recipe, and the valid values."""

LIMITS: dict[str, tuple[float, float]] = {
    "max_kl": (0, 100),
    "min_top1": (0, 1),
    "max_model_mb": (1, 1 << 20),
}
"""What a recipe must keep to be chosen: lowest and highest sensible value."""


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


def _choice(value: Any, valid: tuple[Any, ...]) -> str:
    right = value in valid and isinstance(value, bool) == isinstance(valid[0], bool)
    says = ", ".join(
        "true" if one is True else "false" if one is False else str(one) for one in valid
    )
    return "" if right else f"must be one of {says}, not {value!r}"


def _between(value: Any, valid: tuple[float, float]) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = number and valid[0] <= value <= valid[1]
    return "" if right else f"must be a number from {valid[0]} to {valid[1]}, not {value!r}"


def _table(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be a table"


_RULES: dict[str, Callable[[Any], str]] = {
    "name": _text(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}", "a name of letters, digits, '.', '_', '-'"),
    "description": _text(r"[^\n]{1,200}", "one line of text"),
    "kit": _text(r"[a-z0-9][a-z0-9_-]*", 'the name of a kit, such as "linux-aarch64-cpu"'),
    "compatible": _compatible,
    "execution_provider": _one_of(list(PRECISIONS)),
    "recipe": _one_of([AUTO, *RECIPES]),
    "quantization": _table,
    "limits": _table,
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
        elif key not in ("kit", "limits"):
            found.append((key, "is missing"))
    provider, name = values.get("execution_provider"), values.get("recipe")
    if isinstance(provider, str) and provider in PRECISIONS and name in RECIPES:
        wrong = refusal(RECIPES[name], provider)
        if wrong:
            found.append(("recipe", wrong))
    found += _table_problems("quantization", values, QUANTIZATION_OPTIONS, _choice)
    found += _table_problems("limits", values, LIMITS, _between)
    length, tokens = values.get("context_length"), values.get("max_tokens")
    if isinstance(length, int) and isinstance(tokens, int) and tokens >= length > 0:
        found.append(("max_tokens", f"must be below context_length ({length}), not {tokens}"))
    return found


def _table_problems(
    table: str,
    values: Mapping[str, Any],
    keys: Mapping[str, Any],
    rule: Callable[[Any, Any], str],
) -> list[tuple[str, str]]:
    """What is wrong with the keys of a table."""
    found = []
    options = values.get(table)
    for option, value in options.items() if isinstance(options, dict) else ():
        key = f"{table}.{option}"
        if option not in keys:
            found.append((key, f"unknown option{nearest(option, keys)}"))
        elif wrong := rule(value, keys[option]):
            found.append((key, wrong))
    return found

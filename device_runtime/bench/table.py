"""A benchmark as a table in the terminal."""

from collections.abc import Iterable, Sequence

from device_runtime.bench.results import Benchmark, Operator, Spread

OPERATORS = 8
"""Operators to list; the others are summed up."""


def render(result: Benchmark) -> str:
    """Return the table."""
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    head = (
        f"{result.model} {result.version} ({result.precision}) on {result.processor}, {threads}; "
        f"medians of {result.rounds} rounds, with the lowest and the highest"
    )
    parts = [[head], _prefill(result), _decode(result), _rest(result)]
    if result.profile is not None:
        context = result.profile.context
        parts.append([f"a decode step after {context} tokens", *_operators(result.profile.decode)])
        parts.append([f"prefill of {context} tokens", *_operators(result.profile.prefill)])
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _prefill(result: Benchmark) -> list[str]:
    rows = [
        (
            f"{case.tokens} tokens",
            *_numbers(case.tokens_per_s, 1),
            f"{case.first_token_s.median:.3f}",
            _optional(case.cpu_s_per_token, 1000, ".2f"),
            _optional(case.joules_per_token, 1, ".3f"),
        )
        for case in result.prefill
    ]
    return _table(
        ("prefill", "tokens/s", "range", "first token, s", "CPU ms/token", "J/token"), rows
    )


def _decode(result: Benchmark) -> list[str]:
    rows = [
        (
            f"context {case.context}",
            *_numbers(case.tokens_per_s, 1),
            f"{case.bytes_per_token / 1e6:.1f}",
            _optional(case.share_of_limit, 100, ".0f", " %"),
            _optional(case.cpu_s_per_token, 1000, ".2f"),
            _optional(case.joules_per_token, 1, ".3f"),
        )
        for case in result.decode
    ]
    heads = ("decode", "tokens/s", "range", "MB/token", "of the limit", "CPU ms/token", "J/token")
    return _table(heads, rows)


def _rest(result: Benchmark) -> list[str]:
    rows = []
    if result.bandwidth is not None:
        median, between = _numbers(result.bandwidth.bytes_per_s, 1, 1e-9)
        size = result.bandwidth.working_set_bytes / 1e6
        rows.append(("memory read bandwidth", f"{median} GB/s, {between}, over {size:.0f} MB"))
    if result.memory is not None:
        memory = result.memory
        rows.append(
            (
                "memory of the process",
                f"{_mb(memory.loaded_bytes)} loaded, {_mb(memory.peak_bytes)} at its peak; in the "
                f"end {_mb(memory.own_bytes)} its own, {_mb(memory.file_bytes)} of files",
            )
        )
    if (starts := result.starts) is not None:
        warm = " s, ".join(_numbers(starts.warm_s, 2))
        rows.append(("start to first token, warm", warm))
        if starts.cold_s is not None:
            cold = " s, ".join(_numbers(starts.cold_s, 2))
            rows.append(("the same, cold", f"{cold}; {_percent(starts.cached_share)} cached"))
        else:
            share = _percent(starts.cached_share)
            rows.append(("the same, cold", f"not measured: {share} of the files stayed in memory"))
    sizes = result.sizes
    rows.append(
        (
            "sizes",
            f"{_mb(sizes.installed)} installed, {_mb(sizes.stored)} in the bundle; of these the "
            f"runtime {_mb(sizes.runtime_installed)}, {_mb(sizes.runtime_stored)}",
        )
    )
    rows.append(("energy", result.energy_from or "no sensor that this user may read"))
    rows += [(f"not measured: {case.tokens} tokens", case.reason) for case in result.skipped]
    if result.bytes_from == "file":
        rows.append(
            (
                "bytes a token",
                "the size of the weights: this bundle does not tell those of the KV cache",
            )
        )
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def _operators(operators: Sequence[Operator]) -> list[str]:
    rows = [
        (
            f"  {operator.name}",
            str(operator.calls),
            f"{operator.ms:.2f}",
            f"{operator.share * 100:.1f} %",
        )
        for operator in operators[:OPERATORS]
    ]
    if others := operators[OPERATORS:]:
        calls, ms = sum(rest.calls for rest in others), sum(rest.ms for rest in others)
        share = sum(rest.share for rest in others)
        rows.append((f"  {len(others)} others", str(calls), f"{ms:.2f}", f"{share * 100:.1f} %"))
    return _table(("  operator", "calls", "ms", "share"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Align columns: the first to the left, the others to the right; empty ones are left out."""
    listed = list(rows)
    if not listed:
        return []
    columns = [
        [head, *cells]
        for head, *cells in zip(heads, *listed, strict=True)
        if any(cell for cell in cells)
    ]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in zip(*columns, strict=True)
    ]


def _numbers(spread: Spread, digits: int, factor: float = 1) -> tuple[str, str]:
    median, low, high = (
        f"{value * factor:.{digits}f}" for value in (spread.median, spread.low, spread.high)
    )
    return median, f"{low} to {high}"


def _optional(value: float | None, factor: float, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value * factor:{form}}{unit}"


def _percent(share: float | None) -> str:
    return "an unknown part" if share is None else f"{share * 100:.0f} %"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"

"""Time by operator, from a trace of ONNX Runtime's profiler."""

from typing import Any

import msgspec

from device_runtime.bench.results import Operator

_BRANCHES = ("If", "Loop", "Scan")
"""Operators whose time is that of the operators inside them, which have their own events."""


class _Arguments(msgspec.Struct, frozen=True):
    op_name: str = ""


class _Event(msgspec.Struct, frozen=True):
    """An event of a trace: what it is, when it began and how long it took, microseconds."""

    cat: str
    name: str = ""
    ts: float = 0
    dur: float = 0
    args: Any = None


Run = dict[str, tuple[int, float]]
"""A run of a graph: calls and microseconds by operator type."""


def runs(trace: bytes) -> list[Run]:
    """List the runs of a graph in their order.

    Args:
        trace: a trace in Chrome's JSON format, as the profiler writes it.

    Raises:
        ValueError: it is not one.
    """
    try:
        events = msgspec.json.decode(trace, type=list[_Event])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a trace of ONNX Runtime: {error}") from None
    spans = sorted((event for event in events if event.name == "model_run"), key=_begin)
    nodes = sorted((event for event in events if event.cat == "Node"), key=_begin)
    listed: list[Run] = []
    number = 0
    for span in spans:
        operators: Run = {}
        while number < len(nodes) and nodes[number].ts < span.ts + span.dur:
            node = nodes[number]
            number += 1
            kind = msgspec.convert(node.args or {}, _Arguments).op_name
            if node.name.endswith("_kernel_time") and kind not in _BRANCHES:
                calls, spent = operators.get(kind, (0, 0.0))
                operators[kind] = (calls + 1, spent + node.dur)
        listed.append(operators)
    return listed


def by_operator(timed: list[Run], *, mean: bool) -> tuple[Operator, ...]:
    """Sum up the time by operator, the largest first.

    Args:
        timed: runs of the graph.
        mean: return the mean of the runs instead of their sum.
    """
    calls: dict[str, int] = {}
    spent: dict[str, float] = {}
    for run in timed:
        for name, (count, microseconds) in run.items():
            calls[name] = calls.get(name, 0) + count
            spent[name] = spent.get(name, 0.0) + microseconds
    count = len(timed) if mean else 1
    total = sum(spent.values())
    return tuple(
        Operator(
            name=name,
            calls=round(calls[name] / count),
            ms=spent[name] / count / 1000,
            share=spent[name] / total if total else 0.0,
        )
        for name in sorted(spent, key=lambda name: -spent[name])
    )


def _begin(event: _Event) -> float:
    return event.ts

"""Traces of ONNX Runtime's profiler."""

import json
from typing import Any

import pytest

from device_runtime.bench import trace


def _run(ts: float, dur: float) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "ph": "X", "args": {}}


def _node(ts: float, dur: float, kind: str, name: str = "a_kernel_time") -> dict[str, Any]:
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": kind}}


EVENTS = [
    {"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": 5, "ph": "X", "args": {}},
    # Out of order, as threads write them.
    _node(120, 40, "MatMul"),
    _node(12, 1, "Add"),
    _run(10, 50),
    _run(100, 100),
    _node(105, 10, "Add"),
    _node(110, 99, "Add", "a_fence_before"),
    _node(112, 60, "If"),
    _run(300, 100),
    _node(310, 20, "MatMul"),
    _node(330, 10, "Add"),
    {"cat": "process", "name": "threads", "ts": 0, "dur": 0},
]


def test_time_of_operators_is_told_apart_by_run() -> None:
    first, second, third = trace.runs(json.dumps(EVENTS).encode())
    assert first == {"Add": (1, 1.0)}
    assert second == {"Add": (1, 10.0), "MatMul": (1, 40.0)}
    assert third == {"MatMul": (1, 20.0), "Add": (1, 10.0)}


def test_operators_are_summed_up_the_largest_first() -> None:
    timed = trace.runs(json.dumps(EVENTS).encode())[1:]
    most, least = trace.by_operator(timed, mean=False)
    assert (most.name, least.name) == ("MatMul", "Add")
    assert (most.calls, most.ms, most.share) == pytest.approx((2, 0.06, 0.75))
    assert least.share == pytest.approx(0.25)
    (mean, _) = trace.by_operator(timed, mean=True)
    assert (mean.calls, mean.ms, mean.share) == pytest.approx((1, 0.03, 0.75))
    assert trace.by_operator([], mean=True) == ()


@pytest.mark.parametrize("text", [b"", b"[{]", b'{"a": 1}', b'[{"cat": "Node", "ts": "x"}]'])
def test_what_is_not_a_trace_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a trace"):
        trace.runs(text)

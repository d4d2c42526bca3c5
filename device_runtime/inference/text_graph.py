"""The graph of a model that answers, in ONNX Runtime itself."""

from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime import memory
from device_runtime.inference.kv_rows import KvRows, Layout, Step
from device_runtime.inference.onnx_arrays import around, type_of, view_of
from device_runtime.inference.onnx_session import Binding, OnnxSession, Value, load_adapter

Outputs = dict[str, npt.NDArray[Any]]

_GIVEN = ("input_ids", "attention_mask", "position_ids")
"""Inputs that each run brings, as genai_config.json calls them; a graph may lack the last."""


class TextGraph:
    """A graph that reads and writes KV caches in place.

    Args:
        session: the graph.
        decoder: `model.decoder` of its genai_config.json.

    Attributes:
        layout: layout of a KV cache.
        token_bytes: size of the KV cache of one token.
    """

    def __init__(self, session: OnnxSession, decoder: Mapping[str, Any]) -> None:
        inputs, outputs = decoder["inputs"], decoder["outputs"]
        layers = range(decoder["num_hidden_layers"])
        past, present = (
            [names[pattern] % layer for layer in layers for pattern in patterns]
            for names, patterns in (
                (inputs, ("past_key_names", "past_value_names")),
                (outputs, ("present_key_names", "present_value_names")),
            )
        )
        self._past, self._present = past, present
        caches = [session.described(name) for name in past]
        usual = decoder["num_key_value_heads"], decoder["head_size"]
        self._names: dict[str, str] = inputs
        self._given = [name for name in _GIVEN if name in inputs]
        self._results = [name for name in session.outputs if name not in present]
        window = decoder.get("sliding_window") or {}
        windowed = window.get("layers", ())
        self._decoder = decoder
        self.layout = Layout(
            # Gemma 4 has heads of two sizes, and tells them; other graphs may leave a size open.
            shapes=tuple(
                (max(heads, 0) or usual[0], max(width, 0) or usual[1])
                for _, (_, heads, _, width) in caches
            ),
            kind=type_of(caches[0][0]),
            window=window["window_size"] if windowed else 0,
            windowed=frozenset(place for layer in windowed for place in (2 * layer, 2 * layer + 1)),
        )
        self._session = session
        self._adapters: dict[str, c_void_p] = {}
        self._shapes: dict[str, tuple[int, npt.DTypeLike]] = {}
        self.token_bytes = self.layout.token_bytes

    def new_rows(self, capacity: int, count: int) -> KvRows:
        """Create KV caches.

        Args:
            capacity: capacity of each, tokens.
            count: number of them; fewer if the system has too few addresses.

        Raises:
            MemoryError: it has not even addresses for one.
        """
        capacity = memory.kv_cache_length(self._decoder, capacity)
        return KvRows(self.layout, capacity=capacity, count=count)

    def load_adapter(self, file: Path, name: str) -> None:
        """Load an adapter, and give it a name.

        Raises:
            RuntimeError: it does not load.
        """
        self._adapters[name] = load_adapter(file)

    def run(
        self,
        rows: KvRows,
        first: int,
        tokens: npt.NDArray[np.int64],
        lengths: Sequence[int],
        adapter: str = "",
    ) -> Outputs:
        """Run the model over tokens of sequences whose caches are next to each other.

        Args:
            rows: the caches.
            first: place of the first.
            tokens: int64 [sequences, tokens]; of several sequences one token each, and not in the
                first run of all.
            lengths: tokens that each cache holds.
            adapter: name of the adapter that takes part; empty for none.

        Returns:
            The results, [sequences, tokens or 1, ...], by name. Those of one token each are
            overwritten by the next such run.

        Raises:
            RuntimeError: the graph fails.
        """
        count, new = tokens.shape
        if new == 1:
            return self._step(rows, first, tokens, lengths, adapter)
        (before,) = lengths
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, before + new), np.int64),
            "position_ids": np.arange(before, before + new)[None],
        }
        given = {self._names[name]: around(inputs[name]) for name in self._given}
        unset: dict[str, Value | None] = dict.fromkeys(self._results)
        binding = self._binding(rows, first, count, given, unset)
        results = self._session.run(binding, self._adapters.get(adapter))
        outputs = {name: view_of(value).copy() for name, value in results.items()}
        self._shapes = {name: (array.shape[-1], array.dtype) for name, array in outputs.items()}
        return outputs

    def _step(
        self,
        rows: KvRows,
        first: int,
        tokens: npt.NDArray[np.int64],
        lengths: Sequence[int],
        adapter: str,
    ) -> Outputs:
        """Run the model over one token of each sequence.

        Of all that Python does for a token this is the largest part, so what is the same in each
        step is made once.
        """
        count = len(tokens)
        step = rows.steps.get((first, count))
        if step is None:
            step = rows.steps[first, count] = self._new_step(rows, first, count)
        step.tokens[:] = tokens
        step.positions[:, 0] = lengths
        longest = max(lengths) + 1
        if count == 1:
            mask = rows.mask[:, :longest]
        else:
            mask = (np.arange(longest) <= step.positions).astype(np.int64)
        step.binding.inputs.set(self._names["attention_mask"], around(mask))
        self._session.run(step.binding, self._adapters.get(adapter))
        return step.outputs

    def _new_step(self, rows: KvRows, first: int, count: int) -> Step:
        tokens, positions = (np.zeros((count, 1), np.int64) for _ in range(2))
        arrays = {"input_ids": tokens, "position_ids": positions}
        given = {
            self._names[name]: around(arrays[name]) if name in arrays else None
            for name in self._given
        }
        outputs = {
            name: rows.output(name, width, kind)[:count]
            for name, (width, kind) in self._shapes.items()
        }
        results = {name: around(array) for name, array in outputs.items()}
        binding = self._binding(rows, first, count, given, results)
        return Step(tokens=tokens, positions=positions, outputs=outputs, binding=binding)

    def _binding(
        self,
        rows: KvRows,
        first: int,
        count: int,
        given: Mapping[str, Value | None],
        results: Mapping[str, Value | None],
    ) -> Binding:
        caches = rows.caches(first, count)
        return Binding(
            dict(given) | dict(zip(self._past, caches, strict=True)),
            dict(results) | dict(zip(self._present, caches, strict=True)),
        )

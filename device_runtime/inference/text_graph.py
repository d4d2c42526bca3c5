"""The graph of a model that answers, in ONNX Runtime itself."""

import weakref
from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_runtime.inference.kv_rows import KvRows, Layout
from device_runtime.inference.onnx_arrays import around, type_of, view_of
from device_runtime.inference.onnx_session import Binding, OnnxSession, load_adapter

Outputs = dict[str, npt.NDArray[Any]]


class TextGraph:
    """A graph that reads and writes KV caches in place.

    Args:
        session: the graph.
        decoder: `model.decoder` of its genai_config.json.

    Attributes:
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
        self._names: dict[str, str] = inputs
        self._layout = Layout(
            given=[name for name in session.inputs if name not in past],
            results=[name for name in session.outputs if name not in present],
            past=past,
            present=present,
            heads=decoder["num_key_value_heads"],
            width=decoder["head_size"],
            kind=type_of(session.element(session.inputs.index(past[0]))),
        )
        self._session = session
        self._adapters: dict[str, c_void_p] = {}
        self._kept: weakref.WeakKeyDictionary[Binding, Outputs] = weakref.WeakKeyDictionary()
        self.token_bytes = self._layout.token_bytes

    def new_rows(self, capacity: int, count: int) -> KvRows:
        """Create KV caches.

        Args:
            capacity: capacity of each, tokens.
            count: number of them; fewer if the system has too few addresses.

        Raises:
            OSError: it has not even addresses for one.
        """
        return KvRows(self._layout, capacity=capacity, count=count)

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
            tokens: int64 [sequences, tokens]; of several sequences one token each.
            lengths: tokens that each cache holds.
            adapter: name of the adapter that takes part; empty for none.

        Returns:
            The results, [sequences, tokens or 1, ...], by name. Another run of one token each may
            overwrite them.

        Raises:
            RuntimeError: the graph fails.
        """
        count, new = tokens.shape
        before = np.array(lengths)[:, None]
        inputs = {
            self._names["input_ids"]: tokens,
            self._names["attention_mask"]: np.arange(max(lengths) + new) < before + new,
        }
        if "position_ids" in self._names:
            inputs[self._names["position_ids"]] = before + np.arange(new)
        binding = rows.binding(first, count, step=new == 1)
        arrays = {name: array.astype(np.int64, copy=False) for name, array in inputs.items()}
        given = {name: around(array) for name, array in arrays.items()}
        results = self._session.run(binding, given, self._adapters.get(adapter))
        if not binding.keeps:
            return {name: view_of(value).copy() for name, value in results.items()}
        if binding not in self._kept:
            self._kept[binding] = {name: view_of(value) for name, value in results.items()}
        return self._kept[binding]

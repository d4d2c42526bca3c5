"""The plain loop over ONNX Runtime GenAI as a contestant, as its examples have it."""

import json
import time
from typing import Any

import onnxruntime_genai as og

from scripts.bench.protocol import Run, serve


class GenAI:
    """ONNX Runtime GenAI."""

    def load(self, path: str, context: int, threads: int) -> str:
        """Load an ONNX GenAI folder."""
        og.disable_telemetry_events()
        config = og.Config(path)
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model: Any = og.Model(config)
        return ""

    def run(self, prompt: list[int], count: int) -> Run:
        """Continue a prompt; a token that ends an answer does not end it."""
        length = len(prompt) + count + 2
        params = og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = og.Generator(self._model, params)
        started = time.perf_counter()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(count):
            generator.generate_next_token()
        return Run(first - started, count, time.perf_counter() - first)


if __name__ == "__main__":
    serve(GenAI())

"""transformers on torch as a contestant."""

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from packager import machine
from scripts.bench.protocol import Run, serve


class Transformers:
    """transformers, in the dtype that this machine multiplies fastest."""

    def load(self, path: str, context: int, threads: int) -> str:
        """Load a Hugging Face folder."""
        torch.set_num_threads(threads)
        dtype = torch.bfloat16 if machine.multiplies_bfloat16() else torch.float32
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        return str(dtype).removeprefix("torch.")

    @torch.inference_mode()
    def run(self, prompt: list[int], count: int) -> Run:
        """Continue a prompt greedily with a KV cache."""
        started = time.perf_counter()
        tokens = torch.tensor([prompt])
        made = self._model(tokens, use_cache=True, logits_to_keep=1)
        token = made.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(count):
            made = self._model(token, past_key_values=made.past_key_values, use_cache=True)
            token = made.logits[:, -1:].argmax(-1)
        token.item()
        return Run(first - started, count, time.perf_counter() - first)


if __name__ == "__main__":
    serve(Transformers())

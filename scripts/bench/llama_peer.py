"""llama.cpp as a contestant, and its quantizer; in an environment with llama-cpp-python.

    llama_peer.py run                              take part (`protocol`)
    llama_peer.py quantize IN.gguf OUT.gguf TYPE
    llama_peer.py logits MODEL.gguf WINDOWS.npy    to stdout: the size of the vocabulary, int32, and
                                                   the logits of each window, float32
    llama_peer.py about                            version and instructions, to stdout

Calls the C functions themselves: the package's own loop would cost the contestant time.
"""

import ctypes
import sys
import time
from typing import Any

import llama_cpp
import numpy as np

from scripts.bench.protocol import Run, serve

TYPES = {
    name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): getattr(
        llama_cpp, name
    )
    for name in dir(llama_cpp)
    if name.startswith("LLAMA_FTYPE_")
}


class Llama:
    """llama.cpp with a KV cache in fp16, with flash attention and without it.

    Flash attention makes its prefill faster and its decoding, of more than a few tokens, slower.
    A run is done in both ways, and has the better times of both.
    """

    def load(self, path: str, context: int, threads: int) -> str:
        """Load a GGUF file."""
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._contexts: list[Any] = []
        for flash in (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
        ):
            settings = llama_cpp.llama_context_default_params()
            settings.n_ctx = settings.n_batch = context
            settings.n_threads = settings.n_threads_batch = threads
            settings.flash_attn_type = flash
            self._contexts.append(llama_cpp.llama_init_from_model(model, settings))
        self._batch: Any = llama_cpp.llama_batch_init(context, 0, 1)
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
        self._sampler: Any = chain
        return ""

    def run(self, prompt: list[int], count: int) -> Run:
        """Continue a prompt; a token that ends an answer does not end it."""
        runs = [self._run(context, prompt, count) for context in self._contexts]
        return Run(min(run.first_s for run in runs), count, min(run.decode_s for run in runs))

    def _run(self, context: Any, prompt: list[int], count: int) -> Run:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        started = time.perf_counter()
        token = self._decode(context, prompt, 0)
        first = time.perf_counter()
        for index in range(count):
            token = self._decode(context, [token], len(prompt) + index)
        return Run(first - started, count, time.perf_counter() - first)

    def _decode(self, context: Any, tokens: list[int], position: int) -> int:
        """Read tokens from a position on; return the most likely next one."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == len(tokens) - 1
        status = llama_cpp.llama_decode(context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return int(llama_cpp.llama_sampler_sample(self._sampler, context, -1))


def quantize(source: str, target: str, kind: str) -> None:
    """Write a file with the weights of another, quantized."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = TYPES[kind]
    settings.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)):
        sys.exit(f"llama.cpp cannot quantize {source} to {kind}")


def logits(model: str, windows: str) -> None:
    """Write the size of the vocabulary and the logits of each window, all tokens."""
    ids = np.load(windows)
    length = ids.shape[1]
    llama = llama_cpp.Llama(
        model, n_ctx=length, n_batch=length, n_ubatch=length, logits_all=True, verbose=False
    )
    sys.stdout.buffer.write(np.int32(llama.n_vocab()).tobytes())
    for window in ids:
        llama.reset()
        llama.eval(window.tolist())
        sys.stdout.buffer.write(np.asarray(llama.scores[:length], np.float32).tobytes())


def about() -> None:
    """Print the version, and the instructions that it was built with."""
    flags = [flag.strip() for flag in llama_cpp.llama_print_system_info().decode().split("|")]
    used = [flag.removesuffix(" = 1").removeprefix("CPU : ") for flag in flags if " = 1" in flag]
    sys.stdout.write(f"{llama_cpp.__version__}\n{' '.join(used)}\n")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "run":
        serve(Llama())
    elif command == "quantize":
        quantize(*arguments)
    elif command == "logits":
        logits(*arguments)
    else:
        about()

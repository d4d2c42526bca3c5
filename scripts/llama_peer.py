"""Quantize, run and time GGUF files with llama.cpp, for `scripts.quality_peers`.

Runs in an environment of its own, with `llama-cpp-python` and nothing of edgepack:

    llama_peer.py quantize IN.gguf OUT.gguf TYPE
    llama_peer.py logits MODEL.gguf WINDOWS.npy    float32 logits of each window, to stdout
    llama_peer.py speed MODEL.gguf TOKENS          decoding speed, tokens a second
"""

import ctypes
import os
import sys
import time

import llama_cpp
import numpy as np

TYPES = {
    name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): getattr(
        llama_cpp, name
    )
    for name in dir(llama_cpp)
    if name.startswith("LLAMA_FTYPE_")
}
PROMPT = b"Once upon a time there was a"


def quantize(source: str, target: str, kind: str) -> None:
    """Write a file with the weights of another, quantized."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = TYPES[kind]
    settings.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)):
        sys.exit(f"llama.cpp cannot quantize {source} to {kind}")


def logits(model: str, windows: str) -> None:
    """Write the logits of each window, all tokens."""
    ids = np.load(windows)
    length = ids.shape[1]
    llama = llama_cpp.Llama(
        model, n_ctx=length, n_batch=length, n_ubatch=length, logits_all=True, verbose=False
    )
    for window in ids:
        llama.reset()
        llama.eval(window.tolist())
        sys.stdout.buffer.write(np.asarray(llama.scores[:length], np.float32).tobytes())


def speed(model: str, tokens: int) -> None:
    """Print the speed of greedy decoding."""
    cores = len(os.sched_getaffinity(0))
    llama = llama_cpp.Llama(model, n_ctx=512, n_threads=cores, verbose=False)
    generator = llama.generate(llama.tokenize(PROMPT), top_k=1, temp=0.0)
    next(generator)  # ends the prefill
    started = time.perf_counter()
    for _ in range(tokens):
        next(generator)
    sys.stdout.write(str(tokens / (time.perf_counter() - started)))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "quantize":
        quantize(*arguments)
    elif command == "logits":
        logits(*arguments)
    else:
        speed(arguments[0], int(arguments[1]))

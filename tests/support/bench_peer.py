"""A contestant of the bench whose model is arithmetic, and what can go wrong with one."""

import os

from scripts.bench.protocol import Run, serve

REFUSED, DEADLY, LAST = 13, 666, 17
"""Tokens that the model refuses, that end its process, and after which it has little to say."""


class Arithmetic:
    """Takes a tenth of a second for each token of a prompt, by its own account."""

    def load(self, path: str, context: int, threads: int) -> str:
        print("a library that prints to stdout")
        if path.endswith("missing"):
            raise FileNotFoundError(path)
        return f"{context} tokens, {threads} threads"

    def run(self, prompt: list[int], count: int) -> Run:
        print("and again")
        if REFUSED in prompt:
            raise ValueError(f"token {REFUSED}")
        if DEADLY in prompt:
            os._exit(3)
        tokens = 0 if LAST in prompt else count
        return Run(first_s=len(prompt) / 10, tokens=tokens, decode_s=1.0 if tokens else 0.0)


if __name__ == "__main__":
    serve(Arithmetic())

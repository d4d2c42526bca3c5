"""Threads for work that consists of many small tensor operations.

Such operations are too short to be split among threads: torch's own threads then wait for each
other most of the time, and on a busy machine always. Whole pieces of work are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")


class Threads:
    """As many threads as torch uses, each with operations that are not split any further.

    Attributes:
        count: number of threads.
    """

    def __init__(self) -> None:
        import torch

        self.count = torch.get_num_threads()
        # The number is a thread's own in OpenMP, and the process's in MKL.
        self._pool = ThreadPoolExecutor(self.count, initializer=lambda: torch.set_num_threads(1))

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def map(self, function: Callable[[Given], Result], items: Iterable[Given]) -> Iterator[Result]:
        """Call a function for each item, at the same time; return the results in order.

        Raises:
            Exception: whatever the first of them to fail raises.
        """
        import torch

        torch.set_num_threads(1)
        try:
            return iter(list(self._pool.map(function, items)))
        finally:
            torch.set_num_threads(self.count)

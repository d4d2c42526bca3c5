"""Measure the memory of a server over many requests: `python -m scripts.memory BUNDLE.epk [COUNT]`.

The requests are of all kinds and lengths, one after the other: conversations that go on, the forms
of all APIs, streams, schemas, tools, beam searches, log probabilities, clients that disconnect,
errors. Prints one JSON object: resident memory of the server and of its inference process, MiB, at
the start and after so many requests, and how the requests ended.
"""

import sys
from pathlib import Path

import httpx
import psutil

from packager import console, launch
from tests.support.load import PATIENCE_S
from tests.support.mixed_requests import Requests
from tests.support.serving import Serving

COUNT = 6000
EVERY = 100


def main() -> None:
    """Print the figures."""
    release = launch.unpack_for_host(Path(sys.argv[1]))
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    with (
        Serving(release.folder) as serving,
        httpx.Client(base_url=serving.url, timeout=PATIENCE_S) as client,
    ):

        def memory() -> list[int]:
            pids = (serving.process.pid, serving.worker)
            return [psutil.Process(pid).memory_info().rss >> 20 for pid in pids]

        requests = Requests(client)
        after = {0: memory()}
        for number in range(1, count + 1):
            requests.send()
            if number % EVERY == 0:
                after[number] = memory()
                console.note(f"{number} requests: {after[number]} MiB")
    console.result_json({"memory_mib": after, "outcomes": dict(sorted(requests.outcomes.items()))})


if __name__ == "__main__":
    main()

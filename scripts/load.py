"""Load-test a bundle's server, and kill its worker under load: `python -m scripts.load BUNDLE.epk`.

Options: duration of the load of 50 clients, seconds (120), and how often the worker is killed after
that (20). Prints one JSON object: outcomes of requests, latencies of refusals and of /healthz, the
slope of the memory, and the number of processes left behind.
"""

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx
import psutil

from packager import console, launch
from tests.support.load import PATIENCE_S, Clients, kills
from tests.support.serving import Serving, is_gone

CLIENTS = 50


def _load_in_a_process(url: str, seconds: float, results: Any) -> None:
    clients = Clients(url, count=CLIENTS, seed=1)
    asyncio.run(clients.run(seconds))
    results.put((dict(clients.outcomes), clients.refused_s))


def _watch_health(url: str, over: Event, results: Any) -> None:
    """Measure the latency of /healthz, seconds, ten times a second until the load is over."""
    latencies = []
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        while not over.wait(0.1):
            started = time.monotonic()
            client.get("/healthz").raise_for_status()
            latencies.append(time.monotonic() - started)
    results.put(latencies)


def many_clients(serving: Serving, seconds: float) -> dict[str, Any]:
    """Run 50 concurrent clients."""
    spawn = multiprocessing.get_context("spawn")
    over, answers, health = spawn.Event(), spawn.Queue(), spawn.Queue()
    loading = spawn.Process(target=_load_in_a_process, args=(serving.url, seconds, answers))
    watching = spawn.Process(target=_watch_health, args=(serving.url, over, health))
    watching.start()
    loading.start()
    started = time.monotonic()
    memory = []
    while loading.is_alive() and answers.empty():
        time.sleep(1)
        memory.append((time.monotonic() - started, serving.get("/v1/status")["memory_bytes"]))
    outcomes, refused_s = answers.get()
    over.set()
    health_s = health.get()
    loading.join()
    watching.join()
    # The first quarter fills the KV caches.
    later = memory[len(memory) // 4 :]
    slope, _ = statistics.linear_regression(*zip(*later, strict=True))
    return {
        "clients": CLIENTS,
        "seconds": seconds,
        "outcomes": outcomes,
        "refusal_ms": _percentiles(refused_s),
        "healthz_ms": _percentiles(health_s),
        "memory_mb": [round(figure / 1e6) for _, figure in (memory[0], later[0], memory[-1])],
        "memory_slope_kb_per_s": round(slope / 1e3, 1),
        "worker_restarts": serving.get("/v1/status")["worker_restarts"],
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Summarize latencies in milliseconds."""
    ranked = sorted(seconds)
    return {
        "count": len(ranked),
        "median": round(ranked[len(ranked) // 2] * 1e3, 1),
        "p99": round(ranked[int(len(ranked) * 0.99)] * 1e3, 1),
        "most": round(ranked[-1] * 1e3, 1),
    }


def main() -> None:
    """Print the figures."""
    release = launch.unpack_for_host(Path(sys.argv[1]))
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 120
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    with Serving(release.folder) as serving:
        figures = {"load": many_clients(serving, seconds)}
        if count:
            figures["kills"] = asyncio.run(kills(serving, count))
        processes = psutil.Process(serving.process.pid).children(recursive=True)
        serving.process.terminate()
        serving.process.wait(timeout=PATIENCE_S)
        figures["left"] = {"processes": sum(not is_gone(child.pid) for child in processes)}
    console.result_json(figures)


if __name__ == "__main__":
    main()

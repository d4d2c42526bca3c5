"""Prometheus metrics: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from device_runtime.inference.engine import Usage
from device_runtime.status.report import Outcome, RuntimeStatus
from device_runtime.worker.health import Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_NEXT_TOKEN_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """Counters and histograms of this server, in a registry of their own.

    Args:
        status: returns the current status; called at each scrape.
    """

    def __init__(self, status: Callable[[], RuntimeStatus]) -> None:
        # Without the library's default collectors, which report only the parent process.
        self._registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "edgepack_requests",
            "Requests for an answer, by outcome.",
            ("endpoint", "outcome"),
            registry=self._registry,
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of all prompts.")
        self._cached_tokens = self._counter(
            "cached_tokens", "Tokens of prompts that were reused from an earlier request."
        )
        self._completion_tokens = self._counter("completion_tokens", "Tokens generated.")
        self._audio = self._counter("audio_seconds", "Length of the recordings written down.")
        self._first_token = Histogram(
            "edgepack_first_token_seconds",
            "Time from request arrival to first token, queueing included.",
            buckets=_FIRST_TOKEN_S,
            registry=self._registry,
        )
        self._next_token = Histogram(
            "edgepack_next_token_seconds",
            "Time from one token of an answer to the next.",
            buckets=_NEXT_TOKEN_S,
            registry=self._registry,
        )
        self._registry.register(_Status(status))

    def count_request(self, endpoint: str, outcome: Outcome) -> None:
        """Count a request by its outcome."""
        self._requests.labels(endpoint, outcome).inc()

    def count_tokens(self, usage: Usage) -> None:
        """Count the tokens of a request."""
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._cached_tokens.inc(usage.cached_tokens)
        self._completion_tokens.inc(usage.completion_tokens)

    def count_audio(self, seconds: float) -> None:
        """Count the length of a recording."""
        self._audio.inc(seconds)

    def observe_first_token(self, seconds: float) -> None:
        """Observe the time from a request's arrival to its first token."""
        self._first_token.observe(seconds)

    def observe_next_token(self, seconds: float) -> None:
        """Observe the time from one token to the next."""
        self._next_token.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics, in the format of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(f"edgepack_{name}", about, registry=self._registry)


class _Status(Collector):
    """Metrics of the status, read at each scrape."""

    def __init__(self, status: Callable[[], RuntimeStatus]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that the registry does not request the status for the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        gauges = {
            "queue_length": ("Requests in the queue.", status.queue_length),
            "running_requests": ("Requests being answered.", status.running),
            "memory_bytes": ("Resident memory of both processes.", status.memory_bytes),
            "worker_memory_bytes": (
                "Resident memory of the inference process.",
                status.worker_memory_bytes,
            ),
            "uptime_seconds": ("Time since the service started.", status.uptime_s),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(f"edgepack_{name}", about, value=value)
        if status.board.temperature_c is not None:
            yield GaugeMetricFamily(
                "edgepack_temperature_celsius",
                "Temperature of the hottest sensor.",
                value=status.board.temperature_c,
            )
        health = GaugeMetricFamily(
            "edgepack_health", "1 for the service's current state.", labels=("health",)
        )
        for state in Health:
            health.add_metric((state.value,), float(state is status.health))
        yield health
        identity = GaugeMetricFamily(
            "edgepack_release_info",
            "The served release.",
            labels=("model", "version", "release"),
        )
        labels = (status.identity.model, status.identity.version, status.identity.release)
        identity.add_metric(labels, 1)
        yield identity
        yield CounterMetricFamily(
            "edgepack_worker_restarts",
            "Restarts of the inference process.",
            value=status.worker_restarts,
        )

"""Counts and times of a server, for Prometheus."""

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from skiplab.serve.scheduler import Scheduler

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@final
class ServerMetrics:
    """A registry of its own, so that a process may hold several servers."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
        own = {"registry": self._registry, "namespace": "skiplab"}
        self.requests = Counter("requests", "Requests by endpoint and status", ["endpoint", "status"], **own)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts", **own)
        self.generated_tokens = Counter("generated_tokens", "Generated tokens", **own)
        self.first_token = Histogram("first_token_seconds", "Time to the first text", buckets=_SECONDS, **own)
        self.duration = Histogram("request_seconds", "Time of whole requests", buckets=_SECONDS, **own)
        Gauge("rows_waiting", "Rows that wait", **own).set_function(lambda: scheduler.waiting)
        Gauge("rows_active", "Rows that are decoded", **own).set_function(lambda: scheduler.active)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)

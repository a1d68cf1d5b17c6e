"""What ``/metrics`` shows, for Prometheus. One registry per server, so that two servers in one process do not mix."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Outcome(StrEnum):
    """How a request ended."""

    SERVED = "served"
    REFUSED = "refused"
    FAILED = "failed"


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("policy_requests", "Requests by how they ended", ["outcome"], registry=self.registry)
        for outcome in Outcome:
            self.requests.labels(outcome.value)  # shown as 0 before the first one
        self.seconds = Histogram(
            "policy_request_seconds",
            "From the request's last byte to the reply's first",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0),
        )
        self.connections = Gauge("policy_connections", "Open websocket connections", registry=self.registry)

    def count(self, outcome: Outcome) -> None:
        """One more request that ended so."""
        self.requests.labels(outcome.value).inc()

    def requests_with(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        value = self.registry.get_sample_value("policy_requests_total", {"outcome": outcome.value})
        return int(value or 0)

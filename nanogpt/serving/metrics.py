"""What Prometheus reads at /metrics."""

import collections
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily

from nanogpt.serving.shelf import Shelf

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OF = ("model", "version")


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, shelf: Shelf) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "nanogpt_requests", "Requests.", ("path", "code"), registry=self.registry
        )
        self.tokens = Counter(
            "nanogpt_tokens", "Tokens read and written.", (*OF, "kind"), registry=self.registry
        )
        self.first = Histogram(
            "nanogpt_first_token_seconds",
            "From a request, read, to the first token of its first text.",
            OF,
            buckets=SECONDS,
            registry=self.registry,
        )
        self._shelf = shelf
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """How many texts run and wait now."""
        run: collections.Counter[tuple[str, str]] = collections.Counter()
        wait = run.copy()
        for model in self._shelf.at_work:
            of, open = (model.id, model.version), model.worker.open
            run[of] += min(open, model.slots)
            wait[of] += max(0, open - model.slots)
        for name, what, counts in (("running", "run", run), ("waiting", "wait", wait)):
            found = GaugeMetricFamily(f"nanogpt_texts_{name}", f"Texts that {what}.", labels=OF)
            for of, count in counts.items():
                found.add_metric(of, count)
            yield found

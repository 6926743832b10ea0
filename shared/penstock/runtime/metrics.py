"""The Prometheus metrics of a service.

Hot paths add to plain numbers (an event loop is one thread, so no locks are needed); Prometheus' own types are
built only for a scrape.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.verbs import Verb

SECONDS: Final = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

Kind = Literal["counter", "gauge"]
Samples = Iterable[tuple[Sequence[str], float]]


class Histogram:
    """A histogram that is cheap to update: `observe` costs one bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, cumulative count) pairs, as Prometheus expects them."""
        reached, rows = 0, list[tuple[str, float]]()
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            reached += count
            rows.append((bound, reached))
        return rows


class VerbMetrics:
    """Counts and latency of the requests of one verb."""

    __slots__ = ("errors", "items", "latency")

    def __init__(self) -> None:
        self.items = 0
        self.errors = 0
        self.latency = Histogram()


class _Watched(NamedTuple):
    name: str
    kind: Kind
    help: str
    labels: Sequence[str]
    read: Callable[[], Samples]


class Metrics(Collector):
    """The metrics of one running service, in a registry of its own."""

    def __init__(self, service: str, instance: str, version: str, *, whole_process: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.store_calls = 0
        self.store_seconds = Histogram()
        self.store_batch = Histogram(SIZES)
        self._verbs: dict[str, VerbMetrics] = {}
        self._watched: list[_Watched] = []
        info, labels = (service, instance, version), ("service", "instance", "version")
        self.watch("penstock_info", "gauge", "Which service this is", lambda: [(info, 1)], *labels)
        self.registry.register(self)
        if whole_process:  # process metrics are ambiguous when several services share a process (tests)
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    def verb(self, name: str) -> VerbMetrics:
        """Return the metrics of a verb; the caller may keep and update them."""
        found = self._verbs.get(name)
        if found is None:
            found = self._verbs[name] = VerbMetrics()
        return found

    def request(self, verb: Verb[Any, Any], items: int, errors: int, seconds: float) -> None:
        """Count an answered call of a verb (the observer of `Endpoints`)."""
        numbers = self.verb(verb.name)
        numbers.items += items
        numbers.errors += errors
        numbers.latency.observe(seconds)

    def store_call(self, _partition: int, commands: int, seconds: float) -> None:
        """Count one finished FCALL and the commands in it (the observer of `Store`)."""
        self.store_calls += 1
        self.store_batch.observe(commands)
        self.store_seconds.observe(seconds)

    def watch(self, name: str, kind: Kind, help: str, read: Callable[[], Samples], *labels: str) -> None:
        """Add a metric. Every scrape calls `read()`, which returns (label values, value) pairs."""
        self._watched.append(_Watched(name, kind, help, labels, read))

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.watch(name, "gauge", help, lambda: [((), read())])

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.watch(name, "counter", help, lambda: [((), read())])

    def exposition(self) -> bytes:
        """Return the response body of /metrics."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "penstock_requests",
            "Requests, each item of a batch counted, by how they ended",
            labels=("verb", "outcome"),
        )
        latency = HistogramMetricFamily(
            "penstock_request_duration_seconds",
            "Time in the handler, requests merged into one call counted once",
            labels=("verb",),
        )
        for verb, numbers in sorted(self._verbs.items()):
            requests.add_metric((verb, "ok"), numbers.items - numbers.errors)
            requests.add_metric((verb, "error"), numbers.errors)
            latency.add_metric((verb,), numbers.latency.buckets(), numbers.latency.total)
        yield requests
        yield latency
        yield CounterMetricFamily("penstock_store_calls", "FCALLs to Valkey", value=self.store_calls)
        for name, text, histogram in (
            ("penstock_store_seconds", "Time of one FCALL as seen from here", self.store_seconds),
            ("penstock_store_commands", "Commands in one FCALL", self.store_batch),
        ):
            yield HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.total)
        for watched in self._watched:
            family = (CounterMetricFamily if watched.kind == "counter" else GaugeMetricFamily)(
                watched.name, watched.help, labels=watched.labels
            )
            for labels, value in watched.read():
                family.add_metric(labels, value)
            yield family

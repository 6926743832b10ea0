"""The Prometheus metrics of a service.

Hot paths add to plain numbers (an event loop is one thread, so no locks are needed); Prometheus' own types are
built only for a scrape. A scrape reads what this process knows: it never asks Valkey or NATS.

Names follow Prometheus' conventions (base units, `_total` for counters). Every metric of Penstock has the label
`component`, the name of the service. It is not called `service`, since scrape configurations for Kubernetes use that
name for a label of their own, and Prometheus would rename ours.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.errors import TABLE
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
    """Counts and latency of the requests of one verb. errors: the number of errors of each class."""

    __slots__ = ("errors", "items", "latency")

    def __init__(self) -> None:
        self.items = 0
        self.errors: dict[str, int] = {}
        self.latency = Histogram()


class _Watched(NamedTuple):
    name: str
    kind: Kind
    help: str
    labels: Sequence[str]
    read: Callable[[], Samples]


class _Distribution(NamedTuple):
    name: str
    help: str
    histogram: Histogram


class Metrics(Collector):
    """The metrics of one running service, in a registry of its own."""

    def __init__(self, service: str, instance: str, version: str, *, whole_process: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.store_seconds = Histogram()
        self.store_batch = Histogram(SIZES)
        self._component = service
        self._verbs: dict[str, VerbMetrics] = {}
        # An alert on the increase of a counter misses the first one if that is what makes the series.
        self._errors: dict[str, int] = {"internal": 0}
        self._watched: list[_Watched] = []
        self._distributions: list[_Distribution] = []
        info = (instance, version)
        self.watch(
            "penstock_info", "gauge", "Which process this is", lambda: [(info, 1)], "process", "version"
        )
        self.histogram(
            "penstock_store_call_duration_seconds",
            "Time of one call of the state machine in Valkey, as seen from here",
            self.store_seconds,
        )
        self.histogram("penstock_store_call_commands", "Commands in one of these calls", self.store_batch)
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

    def request(self, verb: Verb[Any, Any], items: int, codes: Sequence[str], seconds: float) -> None:
        """Count an answered call of a verb (the observer of `Endpoints`). codes: of the items that are errors."""
        numbers = self.verb(verb.name)
        numbers.items += items
        numbers.latency.observe(seconds)
        for code in codes:
            known = TABLE.get(code) or TABLE["internal"]  # a code must not make a series of its own
            self._errors[known.code] = self._errors.get(known.code, 0) + 1
            numbers.errors[known.error_class] = numbers.errors.get(known.error_class, 0) + 1

    def store_call(self, _partition: int, commands: int, seconds: float) -> None:
        """Count one finished FCALL and the commands in it (the observer of `Store`)."""
        self.store_batch.observe(commands)
        self.store_seconds.observe(seconds)

    def watch(self, name: str, kind: Kind, help: str, read: Callable[[], Samples], *labels: str) -> None:
        """Add a metric. Every scrape calls `read()`, which returns (label values, value) pairs."""
        self._watched.append(_Watched(name, kind, help, labels, read))

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.watch(name, "gauge", help, lambda: [((), read())])

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.watch(name, "counter", help, lambda: [((), read())])

    def histogram(self, name: str, help: str, histogram: Histogram) -> None:
        """Add a histogram that its owner updates."""
        self._distributions.append(_Distribution(name, help, histogram))

    def exposition(self) -> bytes:
        """Return the response body of /metrics."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield self._counter(
            "penstock_requests",
            "Requests, each item of a batch counted, by how they ended: ok, or the class of the error",
            ("verb", "outcome"),
            self._outcomes(),
        )
        yield self._counter(
            "penstock_errors",
            "Requests that were answered with an error, by its code",
            ("code",),
            (((code,), count) for code, count in self._errors.items()),
        )
        latency = HistogramMetricFamily(
            "penstock_request_duration_seconds",
            "Time in the handler, requests merged into one call counted once",
            labels=("component", "verb"),
        )
        for verb, numbers in sorted(self._verbs.items()):
            latency.add_metric((self._component, verb), numbers.latency.buckets(), numbers.latency.total)
        yield latency
        for name, text, histogram in self._distributions:
            family = HistogramMetricFamily(name, text, labels=("component",))
            family.add_metric((self._component,), histogram.buckets(), histogram.total)
            yield family
        for watched in self._watched:
            make = self._counter if watched.kind == "counter" else self._gauge
            yield make(watched.name, watched.help, watched.labels, watched.read())

    def _outcomes(self) -> Iterator[tuple[Sequence[str], float]]:
        for verb, numbers in sorted(self._verbs.items()):
            yield (verb, "ok"), numbers.items - sum(numbers.errors.values())
            for error_class, count in numbers.errors.items():
                yield (verb, error_class), count

    def _counter(self, name: str, help: str, labels: Sequence[str], samples: Samples) -> Metric:
        return self._filled(CounterMetricFamily(name, help, labels=("component", *labels)), samples)

    def _gauge(self, name: str, help: str, labels: Sequence[str], samples: Samples) -> Metric:
        return self._filled(GaugeMetricFamily(name, help, labels=("component", *labels)), samples)

    def _filled(self, family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
        for labels, value in samples:
            family.add_metric((self._component, *labels), value)
        return family

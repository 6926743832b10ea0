"""Prometheus metrics of a process.

Hot paths add to plain numbers (an event loop is one thread, so no locks are needed); Prometheus' own types are
built only for a scrape. A scrape reads what this process knows: it never asks Valkey or NATS.

Names follow Prometheus' conventions (base units, `_total` for counters). Every metric of Penstock has the label
`component`, the name of the service. It is not called `service`, since scrape configurations for Kubernetes use that
name for a label of their own, and Prometheus would rename ours.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SECONDS: Final = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

Kind = Literal["counter", "gauge"]
Samples = Iterable[tuple[Sequence[str], float]]
"""Pairs of label values and a number."""


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


Histograms = Iterable[tuple[Sequence[str], Histogram]]
"""Pairs of label values and a histogram."""


class _Watched(NamedTuple):
    family: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    labels: Sequence[str]
    read: Callable[[], Samples]


class _Distribution(NamedTuple):
    name: str
    help: str
    labels: Sequence[str]
    read: Callable[[], Histograms]


class Registry(Collector):
    """The metrics of one component, in a Prometheus registry of its own; they are told in the order they were added."""

    def __init__(self, component: str, instance: str, version: str, *, whole_process: bool = False) -> None:
        self._registry = CollectorRegistry()
        self._component = component
        self._added: list[_Watched | _Distribution] = []
        info = (instance, version)
        self.watch(
            "penstock_info", "gauge", "Which process this is", lambda: [(info, 1)], "process", "version"
        )
        self._registry.register(self)
        if whole_process:  # process metrics are ambiguous when several services share a process (tests)
            ProcessCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    def watch(self, name: str, kind: Kind, help: str, read: Callable[[], Samples], *labels: str) -> None:
        """Add a metric. Every scrape calls `read()`, which returns (label values, value) pairs."""
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        self._added.append(_Watched(family, name, help, ("component", *labels), read))

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.watch(name, "gauge", help, lambda: [((), read())])

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:
        self.watch(name, "counter", help, lambda: [((), read())])

    def histogram(self, name: str, help: str, histogram: Histogram) -> None:
        """Add a histogram that its owner updates."""
        self.histograms(name, help, lambda: [((), histogram)])

    def histograms(self, name: str, help: str, read: Callable[[], Histograms], *labels: str) -> None:
        """Add histograms of one name. Every scrape calls `read()`, which returns (label values, histogram) pairs."""
        self._added.append(_Distribution(name, help, ("component", *labels), read))

    def exposition(self) -> bytes:
        """Return the response body of /metrics."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for added in self._added:
            yield self._filled(added) if isinstance(added, _Watched) else self._distributed(added)

    def _filled(self, watched: _Watched) -> Metric:
        family = watched.family(watched.name, watched.help, labels=watched.labels)
        for labels, value in watched.read():
            family.add_metric((self._component, *labels), value)
        return family

    def _distributed(self, added: _Distribution) -> Metric:
        family = HistogramMetricFamily(added.name, added.help, labels=added.labels)
        for labels, histogram in added.read():
            family.add_metric((self._component, *labels), histogram.buckets(), histogram.total)
        return family

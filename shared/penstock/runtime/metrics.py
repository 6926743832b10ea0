"""The metrics that every service has: its requests, their errors, and its calls of Valkey."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from penstock.errors import TABLE
from penstock.metrics import Histogram, Registry
from penstock.verbs import Verb

SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class VerbMetrics:
    """Counts and latency of the requests of one verb. errors: the number of errors of each class."""

    __slots__ = ("errors", "items", "latency")

    def __init__(self) -> None:
        self.items = 0
        self.errors: dict[str, int] = {}
        self.latency = Histogram()


class Metrics(Registry):
    """The metrics of one running service."""

    def __init__(self, service: str, instance: str, version: str, *, whole_process: bool = False) -> None:
        super().__init__(service, instance, version, whole_process=whole_process)
        self.store_seconds = Histogram()
        self.store_batch = Histogram(SIZES)
        self._verbs: dict[str, VerbMetrics] = {}
        # An alert on the increase of a counter misses the first one if that is what makes the series.
        self._errors: dict[str, int] = {"internal": 0}
        self.watch(
            "penstock_requests",
            "counter",
            "Requests, each item of a batch counted, by how they ended: ok, or the class of the error",
            self._outcomes,
            "verb",
            "outcome",
        )
        self.watch(
            "penstock_errors",
            "counter",
            "Requests that were answered with an error, by its code",
            lambda: (((code,), count) for code, count in self._errors.items()),
            "code",
        )
        self.histograms(
            "penstock_request_duration_seconds",
            "Time in the handler, requests merged into one call counted once",
            lambda: (((verb,), numbers.latency) for verb, numbers in sorted(self._verbs.items())),
            "verb",
        )
        self.histogram(
            "penstock_store_call_duration_seconds",
            "Time of one call of the state machine in Valkey, as seen from here",
            self.store_seconds,
        )
        self.histogram("penstock_store_call_commands", "Commands in one of these calls", self.store_batch)

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

    def _outcomes(self) -> Iterator[tuple[Sequence[str], float]]:
        for verb, numbers in sorted(self._verbs.items()):
            yield (verb, "ok"), numbers.items - sum(numbers.errors.values())
            for error_class, count in numbers.errors.items():
                yield (verb, error_class), count

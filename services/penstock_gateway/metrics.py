"""The gateway's metrics: what it answers and how fast, its event streams, what it refuses and what it waits for."""

import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from penstock import __version__
from penstock.metrics import Histogram, Registry

Limit = Literal["token", "link", "streams"]
"""Which limit a request has met: the rate of a token, the rate of links from an address, the streams of a token."""
UNKNOWN: Final = "unknown"
"""The operation of a request to a path or a verb that does not exist."""


class Metrics(Registry):
    """The metrics of one gateway. An operation is a verb, or another `operationId` of the OpenAPI description."""

    def __init__(self) -> None:
        super().__init__("gateway", f"{socket.gethostname()}-{os.getpid()}", __version__, whole_process=True)
        self._answers = Counter[tuple[str, str]]()
        self._seconds: dict[str, Histogram] = {}
        self._limits: dict[Limit, Callable[[], int]] = {}
        self._unanswered = Counter[str]()
        self._ended = Counter[str]()
        self.watch(
            "penstock_gateway_requests",
            "counter",
            "HTTP requests, a batch counted once, by the status of their answer",
            lambda: self._answers.items(),
            "operation",
            "status",
        )
        self.histograms(
            "penstock_gateway_request_duration_seconds",
            "Time from a request's head to the end of its answer; event streams are left out",
            lambda: (((operation,), found) for operation, found in sorted(self._seconds.items())),
            "operation",
        )
        self.watch(
            "penstock_gateway_rate_limited",
            "counter",
            "Requests refused by a limit: token, link or streams",
            lambda: (((limit,), refused()) for limit, refused in self._limits.items()),
            "limit",
        )
        self.watch(
            "penstock_gateway_unanswered",
            "counter",
            "Requests that a service has not answered in time, by the service",
            lambda: (((service,), count) for service, count in self._unanswered.items()),
            "service",
        )
        self.watch(
            "penstock_gateway_event_streams_ended",
            "counter",
            "Event streams that have ended: left, draining, revoked or gap",
            lambda: (((why,), count) for why, count in self._ended.items()),
            "reason",
        )

    def answered(self, operation: str, status: int, seconds: float | None) -> None:
        """Count an answer. seconds: None for an event stream, which lasts as long as its client likes."""
        self._answers[operation, str(status)] += 1
        if seconds is not None:
            histogram = self._seconds.get(operation)
            if histogram is None:
                histogram = self._seconds[operation] = Histogram()
            histogram.observe(seconds)

    def limit(self, limit: Limit, refused: Callable[[], int]) -> None:
        """Add a limit; `refused` returns how many requests it has refused."""
        self._limits[limit] = refused

    def unanswered(self, service: str) -> None:
        self._unanswered[service] += 1

    def stream_ended(self, why: str) -> None:
        self._ended[why] += 1

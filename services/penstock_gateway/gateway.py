"""What all requests to a gateway share: its settings, the connection to NATS, the tokens, the limits."""

from pathlib import Path
from typing import Final

from starlette.requests import Request

from penstock import errors
from penstock.bus.connection import Connection
from penstock_gateway.bus import Bus
from penstock_gateway.metrics import Metrics
from penstock_gateway.rates import Rates
from penstock_gateway.settings import Settings
from penstock_gateway.tokens import Bearer, Tokens

TRACEPARENT: Final = "traceparent"


class Gateway:
    """One gateway, from before it has reached NATS until it stops."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens = Tokens(Path(settings.tokens))
        self.rates = Rates(settings.rate)
        self.link_rates = Rates(settings.link_rate)
        self.draining = False
        self.metrics = Metrics()
        self.metrics.limit("token", lambda: self.rates.refused)
        self.metrics.limit("link", lambda: self.link_rates.refused)
        self.metrics.gauge("penstock_ready", "1 when ready", lambda: not self.missing())
        self.metrics.gauge(
            "penstock_nats_connected", "1 when connected", lambda: "nats" not in self.missing()
        )
        self.metrics.counter("penstock_nats_reconnects", "Reconnects to NATS", self._reconnects)
        self._bus: Bus | None = None

    def connected(self, nats: Connection) -> None:
        """Begin to pass requests on."""
        self._bus = Bus(nats, self.settings.root, self.settings.timeout_ms / 1000, self.metrics.unanswered)

    @property
    def bus(self) -> Bus:
        """The connection. Raise `timeout` while NATS has not been reached since the start."""
        if self._bus is None:
            raise errors.make("timeout", "the gateway has not reached NATS yet")
        return self._bus

    @property
    def max_bytes(self) -> int:
        """The limit of a request's body."""
        return min(self.settings.max_bytes, self.bus.max_bytes)

    def missing(self) -> list[str]:
        """Return what the gateway lacks to be ready."""
        missing = [] if self._bus is not None and self._bus.nats.is_connected else ["nats"]
        return [*missing, "draining"] if self.draining else missing

    def _reconnects(self) -> int:
        return 0 if self._bus is None else self._bus.nats.stats["reconnects"]

    def admit(self, request: Request) -> Bearer:
        """Return who sends a request, and count it. Raise `invalid_token` or `rate_limit_exceeded`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = self.tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        if bearer is None:
            raise errors.make(
                "invalid_token", "send `Authorization: Bearer <token>` with a token that the gateway knows"
            )
        self.rates.take(bearer.name)
        return bearer

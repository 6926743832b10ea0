"""The signal-router's operations on the ring of keys that sign tokens. Tokens are made and checked in Python."""

from msgspec import Struct

from penstock.machine.op import Op, op


class RingKept(Struct):
    ring: str | None = None


@op("signal_router")
class Secrets(Op[RingKept], kw_only=True):
    """Return the ring of signing keys (partition 0); if there is none yet, `offer` becomes the ring."""

    offer: str | None = None


@op("signal_router")
class SecretsRotate(Op[RingKept], kw_only=True):
    """Replace the ring of signing keys by `ring` if it still is `was`. Return the ring afterwards."""

    was: str
    ring: str

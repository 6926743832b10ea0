"""Signals and conditions as handlers see them."""

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from penstock.messages import signals as wire
from penstock.messages.common import readable
from penstock.messages.signals import Condition

T = TypeVar("T")


class Signal:
    """A signal that resumed a task: `signal_id`, `name`, `payload`, `source`, `at` (ms since the Unix epoch)."""

    __slots__ = ("_message", "at", "name", "signal_id", "source")

    def __init__(self, signal: wire.Signal) -> None:
        self.signal_id = signal.signal_id
        self.name = signal.name
        self.source = signal.source
        self.at = signal.at
        self._message = signal

    @property
    def raw_payload(self) -> Raw:
        """The payload as raw JSON, byte for byte."""
        return self._message.raw_payload

    @property
    def payload(self) -> Any:
        """The payload as plain Python values, decoded at the first access."""
        return self._message.payload

    def payload_as(self, type: type[T]) -> T:
        """Return the payload converted to `type`. Raises `msgspec.ValidationError`."""
        return msgspec.json.decode(readable(self._message, "raw_payload"), type=type)

    def __repr__(self) -> str:
        return f"Signal(name={self.name!r}, signal_id={self.signal_id!r}, source={self.source!r})"


def condition_of(condition: "Condition | dict[str, Any] | str | None") -> Condition | None:
    """Build a condition from a name, a prefix `review.*`, or the contract's dict. Raises `msgspec.ValidationError`."""
    if condition is None or isinstance(condition, Condition):
        return condition
    tree = {"name": condition} if isinstance(condition, str) else condition
    return msgspec.convert(tree, Condition)

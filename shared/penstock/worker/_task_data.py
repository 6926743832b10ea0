"""What a handler can read of its task without a request: the attempt, its input, and the state of its lease."""

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from penstock.worker._fenced import FencedCalls
from penstock.worker._leases import Lease

T = TypeVar("T")


class TaskData:
    """The data of a `Task`, read-only."""

    __slots__ = ()

    # `Task` sets these.
    _calls: FencedCalls
    _lease: Lease
    _resumed: bool

    @property
    def execution_id(self) -> str:
        return self._lease.message.execution_id

    @property
    def kind(self) -> str:
        return self._lease.message.kind

    @property
    def lane(self) -> str:
        return self._lease.message.lane

    @property
    def tags(self) -> dict[str, str]:
        return self._lease.message.tags

    @property
    def attempt_index(self) -> int:
        return self._lease.message.attempt_index

    @property
    def attempt_id(self) -> str:
        return self._lease.message.attempt_id

    @property
    def lease_id(self) -> str:
        return self._lease.message.lease_id

    @property
    def lease_epoch(self) -> int:
        return self._lease.message.lease_epoch

    @property
    def deadline_at(self) -> int | None:
        """The execution's deadline in milliseconds since the Unix epoch, or None."""
        return self._lease.message.deadline_at

    @property
    def resumed(self) -> bool:
        """Whether this run follows a suspension (see `resumed_by()`), a `delay` or `await_children`."""
        return self._resumed

    @property
    def raw_input(self) -> Raw:
        """The input as raw JSON, byte for byte."""
        return self._lease.message.raw_input

    @property
    def input(self) -> Any:
        """The input as plain Python values, decoded at the first access."""
        return self._lease.message.input

    def input_as(self, type: type[T]) -> T:
        """Return the input converted to `type`. Raises `msgspec.ValidationError`."""
        return msgspec.json.decode(self._lease.message.raw_input, type=type)

    # The lease.

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancellation was requested. Async handlers are cancelled; sync handlers must check this."""
        return self._lease.cancel_requested

    @property
    def consumed(self) -> bool:
        """Whether the task already has its outcome."""
        return self._calls.consumed

    def is_lease_healthy(self) -> bool:
        """Return False after three failed renewals in a row, or once the lease is lost or past its end."""
        return self._lease.healthy

    def consecutive_renewal_failures(self) -> int:
        return self._lease.failures

"""Parked calls of `work.next`, the profiles of their workers, and the questions asked for them."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from penstock.errors import invalid
from penstock.machine.kinds import takes
from penstock.machine.ops.scheduler import Taker
from penstock.messages.executions import MAX_TASKS, ExecutionSpec, WorkGrant, WorkNext

MAX_PREFIXES: Final = 100
"""The most prefixes among the kinds of a worker: each costs Valkey a search in every capability set."""


class Profile(NamedTuple):
    """What a worker can do: workers with equal profiles find the same work."""

    lanes: tuple[str, ...]
    capabilities: tuple[str, ...]
    kinds: tuple[str, ...] | None
    """Kinds, and prefixes such as `mail.*`; None: all kinds."""

    def takes(self, kind: str) -> bool:
        """Return whether the worker takes work of a kind."""
        return takes(self.kinds, kind)

    def serves(self, spec: ExecutionSpec) -> bool:
        """Return whether the worker takes such an execution."""
        return (
            spec.lane in self.lanes
            and self.takes(spec.kind)
            and set(spec.capabilities) <= set(self.capabilities)
        )

    def asked_for(self, most: int) -> dict[str, Any]:
        """Return the search arguments for the state machine's ops."""
        return {**self._asdict(), "max": min(most, MAX_TASKS)}


class Parked(msgspec.Struct, eq=False):
    """One `work.next` in line. Its future's result is None if the worker was already sent tasks."""

    request: WorkNext
    profile: Profile
    reply_to: str
    answer: "asyncio.Future[Sequence[Any] | None]"
    late: bool = False
    """Whether its `wait_ms` has passed."""
    asked: int = 0
    """How many rounds have asked Valkey on its behalf."""

    @property
    def unasked(self) -> bool:
        """Whether the call does not wait and has not asked Valkey yet; a hint under way would come too late for it."""
        return self.request.wait_ms == 0 and self.asked == 0

    def taker(self, most: int) -> Taker:
        """Describe the worker to the state machine, for at most so many tasks."""
        return Taker(self.request.worker_id, most, self.request.lease_ttl_ms, self.request.start)

    def settle(self, answer: Sequence[Any] | None) -> None:
        """Answer the call, unless it is answered already."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Ask(NamedTuple):
    """A question on behalf of workers of one profile, to the partitions that may have work for them."""

    profile: Profile
    search: Profile
    """The profile with only those of its lanes that may have work: each lane costs Valkey about 10 µs."""
    partitions: list[int]
    takers: list[Parked]

    @property
    def wanted(self) -> int:
        return min(MAX_TASKS, sum(parked.request.max for parked in self.takers))


def profile_of(request: WorkNext | WorkGrant) -> Profile:
    """Return the profile of a worker that asks. Raise `invalid_request` if it names too many prefixes."""
    if sum(each.endswith(".*") for each in request.kinds or ()) > MAX_PREFIXES:
        raise invalid("kinds", f"takes at most {MAX_PREFIXES} prefixes")
    return Profile(
        tuple(request.lanes),
        tuple(sorted(set(request.capabilities))),
        None if request.kinds is None else tuple(sorted(set(request.kinds))),
    )

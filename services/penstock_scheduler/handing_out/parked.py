"""Who waits for work, as `work` sees them."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from penstock.messages.executions import WorkGrant, WorkNext

MAX_TASKS: Final = 64
"""Tasks of one round, and of one answer: so that no call holds Valkey for long."""


class Profile(NamedTuple):
    """What a worker can do: equal profiles find the same work."""

    lanes: tuple[str, ...]
    capabilities: tuple[str, ...]

    def search(self, most: int) -> dict[str, Any]:
        """What Valkey is told to look for."""
        return {"lanes": self.lanes, "capabilities": self.capabilities, "max": min(most, MAX_TASKS)}


class Parked(msgspec.Struct, eq=False):
    """One `work.next` in line; the future's None means that it was answered with tasks."""

    request: WorkNext
    reply_to: str
    answer: "asyncio.Future[Sequence[Any] | None]"
    late: bool = False
    """Its time is over."""
    asked: int = 0
    """In how many rounds it was asked for."""

    @property
    def unasked(self) -> bool:
        """Valkey is asked at least once for who does not wait: a hint under way would come too late."""
        return self.request.wait_ms == 0 and self.asked == 0

    def settle(self, answer: Sequence[Any] | None) -> None:
        """The first answer counts."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Ask(NamedTuple):
    """A question for workers that find the same work, to the partitions that may have some."""

    profile: Profile
    partitions: list[int]
    takers: list[Parked]

    @property
    def wanted(self) -> int:
        return min(MAX_TASKS, sum(parked.request.max for parked in self.takers))


def profile_of(request: WorkNext | WorkGrant) -> Profile:
    return Profile(tuple(request.lanes), tuple(sorted(set(request.capabilities))))

"""work.grant: grants for a worker, which claims them itself, and why there is none."""

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import PenstockError, make
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.executions import Grant, WorkGrant
from penstock_scheduler.handing_out.admission import Admission
from penstock_scheduler.handing_out.orders import HandOut
from penstock_scheduler.handing_out.parked import Profile, profile_of


class Grants:
    """The calls of `work.grant`: they find what is there at once, and never wait."""

    def __init__(self, machine: Machine, admission: Admission) -> None:
        self._machine = machine
        self._hand_out = HandOut(machine)
        self._admission = admission

    async def grant(self, call: Call[WorkGrant]) -> Sequence[Any]:
        item = call.items[0]
        profile = profile_of(item)
        items: list[Grant] = []
        partitions: Sequence[int] = range(self._machine.partitions)
        while partitions and len(items) < item.max:
            wanted = item.max - len(items)
            found, partitions = await self._hand_out.grants(profile, partitions, item.worker_id, wanted)
            admitted = await asyncio.gather(*(self._admission.admit(p, [grant]) for p, grant in found))
            # Refused executions are set aside by now; behind them there may be work under another limit.
            items += [
                Grant(
                    grant_id=grant.grant_id,
                    execution_id=grant.execution_id,
                    resumed=grant.resumed,
                    reclaim=grant.reclaim,
                    expires_at=grant.expires_at,
                )
                for grants in admitted
                for grant in grants
            ]
        if not items:
            raise await self._nothing(profile)
        return [{"items": items, "cursor": None}]

    async def _nothing(self, profile: Profile) -> PenstockError:
        """Return why there is no grant: the limit that is looked at again first, or that there is no work."""
        question = ops.Held(lanes=profile.lanes, capabilities=profile.capabilities, kinds=profile.kinds)
        partitions = range(self._machine.partitions)
        replies = await self._machine.run_many([question] * len(partitions), partitions)
        held = [each for each in replies if each is not None and not isinstance(each, PenstockError)]
        first = min(held, key=lambda each: each.wait_ms, default=None)
        detail = {"lanes": profile.lanes}
        if first is None:
            return make("no_eligible_execution", detail=detail)
        return make(first.code, detail=detail, retry_after_ms=first.wait_ms)

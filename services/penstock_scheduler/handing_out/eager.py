"""Eager hand-out: a new execution is leased to a worker that waits for such work in the very step that creates it.

So it is in no queue, and nothing has to be put there, searched for and taken out again: for one execution that is
nearly half of what Valkey does until it runs. Many at a time go through their queue, where batches are cheap.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock_scheduler.handing_out.parked import Parked
from penstock_scheduler.handing_out.work import Work

MOST: Final = 8
"""The most executions that are created together and handed out so."""


class Eager:
    """Creates executions, for workers that wait for them."""

    def __init__(self, machine: Machine, work: Work) -> None:
        self._machine = machine
        self._work = work

    async def create(self, creates: Sequence[ops.Create]) -> list[ops.Made | PenstockError]:
        """Create executions, and let waiting workers have them. Return replies without tasks, and errors, in order."""
        takers = self._takers(creates)
        if not takers:
            # Parked workers ask for this work in the next loop tick: behind these creates, but in the same batch.
            self._work.expect((create.home(), create.spec.lane, create.spec.kind) for create in creates)
            return await self._machine.run_many(creates)
        for create, parked in zip(creates, takers, strict=True):
            create.taker = parked.taker(1)
        tasks: dict[Parked, list[ops.Task]] = {parked: [] for parked in takers}
        try:
            made = await self._machine.run_many(creates)
            for each, parked in zip(made, takers, strict=True):
                if not isinstance(each, PenstockError) and each.task is not UNSET:
                    tasks[parked].append(each.task)
                    each.task = UNSET
        finally:
            await self._work.serve(tasks)
        return made

    def _takers(self, creates: Sequence[ops.Create]) -> list[Parked]:
        """Take parked calls out of line, and return one for each execution; none at all if some would get none."""
        if len(creates) > MOST or any(create.limit is not None for create in creates):
            return []
        takers: list[Parked] = []
        for create in creates:
            spec = create.spec
            parked = self._work.take_out(spec) or min(
                (
                    each
                    for each in dict.fromkeys(takers)
                    if each.profile.serves(spec) and takers.count(each) < each.request.max
                ),
                key=takers.count,
                default=None,
            )
            if parked is None:
                self._work.put_back(dict.fromkeys(takers))
                return []
            takers.append(parked)
        return takers

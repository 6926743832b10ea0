"""lease.usage, and what follows a hard breach: steps in two partitions that repair themselves.

1. The execution's partition checks the fence. 2. The budget's partition counts the report and records a breach.
3. The execution's partition ends the lease. 4. The budget's partition records that. If a process dies in between,
the budget's due loop hands out the missing steps again; lua/limit/budgets.lua says why that is safe.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.messages.limits import LeaseUsage, Usage

Result = Usage | PenstockError | None
T = TypeVar("T")


class _Member(NamedTuple):
    """A lease whose report passed a hard limit. breach: suspend or fail; dimension: the dimension that passed it."""

    budget_id: str
    execution_id: str
    lease_id: str
    breach: str
    dimension: str | None = None

    @property
    def name(self) -> str:
        """The member's name in the budget's records: execution and lease."""
        return f"{self.execution_id}|{self.lease_id}"


class Budgets:
    """The handler of lease.usage, and the work that due budgets hand out."""

    def __init__(self, machine: Machine, spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._machine = machine
        self._spawn = spawn

    # -- reports ----------------------------------------------------------------------------------

    async def usage(self, call: Call[LeaseUsage]) -> Sequence[Any]:
        items = call.items
        results: list[Result] = [None] * len(items)
        fences = _good(results, range(len(items)), await self._fences(items))
        reports = [ops.Usage.of(items[place], over=fence.over) for place, fence in fences.items()]
        counted = _good(results, fences, await self._machine.run_many(reports))
        # A new report under an ended lease is not counted: the strict fence check says which error it gets.
        unknown = [place for place, count in counted.items() if count.unknown]
        _good(results, unknown, await self._fences([items[place] for place in unknown], strict=True))
        counted = {place: count for place, count in counted.items() if results[place] is None}
        states = await self._stop({place: (items[place], count) for place, count in counted.items()})
        for place, count in counted.items():
            results[place] = Usage(status=count.status, dimensions=count.dimensions, state=states.get(place))
        return results

    async def _fences(
        self, items: Sequence[LeaseUsage], *, strict: bool = False
    ) -> list[ops.Over | PenstockError]:
        return await self._machine.run_many([ops.UsageFence.of(item, strict=strict) for item in items])

    async def _stop(self, counted: dict[int, tuple[LeaseUsage, ops.Counted]]) -> dict[int, str | None]:
        """End the leases whose report passed a hard limit. Return the states of their executions."""
        stopping = {
            place: _Member(item.budget_id, item.execution_id, item.lease_id, count.breach, count.dimension)
            for place, (item, count) in counted.items()
            if count.breach is not None
        }
        if not stopping:
            return {}
        ended = await self._breach(list(stopping.values()))
        return {
            place: end.state
            for place, end in zip(stopping, ended, strict=True)
            if not isinstance(end, PenstockError)
        }

    # -- breaches ---------------------------------------------------------------------------------

    async def _breach(
        self, members: Sequence[_Member], *, tell_worker: bool = False
    ) -> list[ops.Stopped | PenstockError]:
        """End the members' leases, and tell their budgets."""
        ended = await self._machine.run_many(
            [ops.BudgetBreach(**member._asdict(), tell_worker=tell_worker) for member in members]
        )
        stopped: dict[str, list[tuple[str, bool]]] = {}
        for member, end in zip(members, ended, strict=True):
            if not isinstance(end, PenstockError):
                stopped.setdefault(member.budget_id, []).append((member.name, end.suspended))
        await self._machine.run_many(
            [
                ops.BudgetSettle(budget_id=budget_id, stopped=told, resumed=[])
                for budget_id, told in stopped.items()
            ]
        )
        return ended

    def due(self, _partition: int, done: ops.DueDone) -> None:
        """Start the work that due budgets hand out: breaches not settled in time, and executions that may resume."""
        for work in msgspec.convert(done.outside, list[ops.DueBudget]):
            self._spawn(self._repair(work))

    def unheld(self, _partition: int, members: Any) -> None:
        """Handle the `unheld` hint. Each item: [budget id, member that it holds no longer]."""
        told = [
            ops.BudgetSettle(budget_id=budget_id, stopped=[], resumed=[member])
            for budget_id, member in members
        ]
        self._spawn(self._machine.run_many(told))

    async def _repair(self, work: ops.DueBudget) -> None:
        if work.late:
            late = [_Member(work.budget_id, *_parts(name), work.breach) for name in work.late]
            await self._breach(late, tell_worker=True)
        if work.resume:
            resumes: list[ops.BudgetResume] = []
            for name in work.resume:
                execution_id, lease_id = _parts(name)
                resumes.append(
                    ops.BudgetResume(budget_id=work.budget_id, execution_id=execution_id, lease_id=lease_id)
                )
            # A member leaves the budget's list only after its execution was handled without an error.
            told = _good([None] * len(resumes), range(len(resumes)), await self._machine.run_many(resumes))
            resumed = [work.resume[place] for place in told]
            await self._machine.run(ops.BudgetSettle(budget_id=work.budget_id, stopped=[], resumed=resumed))


def _good(results: list[Result], places: Iterable[int], answers: Sequence[T | PenstockError]) -> dict[int, T]:
    """Return the answers that are no errors, by place. Store each error in `results` at its place."""
    good: dict[int, T] = {}
    for place, answer in zip(places, answers, strict=True):
        if isinstance(answer, PenstockError):
            results[place] = answer
        else:
            good[place] = answer
    return good


def _parts(name: str) -> tuple[str, str]:
    """Split a member's name in the budget's records into execution id and lease id."""
    execution_id, _, lease_id = name.partition("|")
    return execution_id, lease_id

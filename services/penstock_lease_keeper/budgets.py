"""lease.usage, and what a hard breach leads to: steps in two partitions that repair themselves.

The execution's partition checks the fence; the budget's counts the report and notes whom it stops; the
execution's ends the lease; the budget's takes note. Whatever dies in between, the budget's due loop hands the
rest out again. lua/limit/budgets.lua says why that is safe.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.limits import LeaseUsage
from penstock.store import Store

Result = dict[str, Any] | PenstockError
_FENCE: Final = ("execution_id", "attempt_index", "lease_id", "lease_epoch")


class Budgets:
    """The handler of lease.usage, and the budgets' due work."""

    def __init__(self, store: Store, spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._store = store
        self._spawn = spawn

    # -- reports ----------------------------------------------------------------------------------

    async def usage(self, call: Call[LeaseUsage]) -> Sequence[Any]:
        items = call.items
        results: list[Result] = await self._fences(items)
        await self._step(results, items, self._count)
        await self._step(results, items, self._unknown)
        await self._step(results, items, self._stop)
        return [result if isinstance(result, PenstockError) else _reply(result) for result in results]

    async def _fences(self, items: Sequence[LeaseUsage], *, strict: bool = False) -> list[Result]:
        return await self._store.call_many(
            [
                (
                    partition_of(item.execution_id),
                    "usage_fence",
                    {name: getattr(item, name) for name in (*_FENCE, "budget_id")} | {"strict": strict},
                )
                for item in items
            ]
        )

    async def _step(
        self,
        results: list[Result],
        items: Sequence[LeaseUsage],
        step: Callable[[list[LeaseUsage], list[dict[str, Any]]], Coroutine[Any, Any, list[Result]]],
    ) -> None:
        """Takes those further that have not failed; `results` is kept up to date."""
        places = [place for place, result in enumerate(results) if not isinstance(result, PenstockError)]
        good = [result for result in results if not isinstance(result, PenstockError)]
        if places:
            after = await step([items[place] for place in places], good)
            for place, result in zip(places, after, strict=True):
                results[place] = result

    async def _count(self, items: list[LeaseUsage], fences: list[dict[str, Any]]) -> list[Result]:
        return await self._store.call_many(
            [
                (
                    partition_of(item.budget_id),
                    "usage",
                    {
                        "budget_id": item.budget_id,
                        "execution_id": item.execution_id,
                        "lease_id": item.lease_id,
                        "dimensions": item.dimensions,
                        "dedup_key": item.dedup_key,
                        "over": fence["over"],
                    },
                )
                for item, fence in zip(items, fences, strict=True)
            ]
        )

    async def _unknown(self, items: list[LeaseUsage], counted: list[dict[str, Any]]) -> list[Result]:
        """Reports under a lease that has ended, and that are no repeats: what is wrong with the fence?"""
        results: list[Result] = list(counted)
        places = [place for place, result in enumerate(counted) if result.get("unknown")]
        if places:
            refused = await self._fences([items[place] for place in places], strict=True)
            for place, result in zip(places, refused, strict=True):
                results[place] = result
        return results

    async def _stop(self, items: list[LeaseUsage], counted: list[dict[str, Any]]) -> list[Result]:
        """Ends the leases of those whose report passed a hard limit."""
        stopping = [
            (item, result) for item, result in zip(items, counted, strict=True) if result.get("breach")
        ]
        if stopping:
            ended = await self._breach(
                [
                    (
                        item.budget_id,
                        f"{item.execution_id}|{item.lease_id}",
                        result["breach"],
                        result.get("dimension"),
                    )
                    for item, result in stopping
                ]
            )
            for (_, result), end in zip(stopping, ended, strict=True):
                if not isinstance(end, PenstockError):
                    result["state"] = end.get("state")
        return list(counted)

    # -- what follows -----------------------------------------------------------------------------

    async def _breach(
        self, members: Sequence[tuple[str, str, str, str | None]], *, tell_worker: bool = False
    ) -> list[Result]:
        """Ends leases, and tells their budgets.

        A member: (budget_id, `<execution>|<lease>`, suspend or fail, dimension).
        """
        ended = await self._store.call_many(
            [
                (
                    partition_of(member),
                    "budget_breach",
                    {
                        **_member(budget_id, member),
                        "breach": breach,
                        "dimension": dimension,
                        "tell_worker": tell_worker,
                    },
                )
                for budget_id, member, breach, dimension in members
            ]
        )
        stopped: dict[str, list[Any]] = {}
        for (budget_id, member, _, _), end in zip(members, ended, strict=True):
            if not isinstance(end, PenstockError):
                stopped.setdefault(budget_id, []).append([member, end["suspended"]])
        await self._store.call_many(
            [_settle(budget_id, stopped=told, resumed=[]) for budget_id, told in stopped.items()]
        )
        return ended

    def due(self, _partition: int, reply: dict[str, Any]) -> None:
        """What the `due` op hands out: breaches that nobody told of, executions that may go on."""
        for work in reply.get("outside") or ():
            self._spawn(self._repair(**work))

    async def _repair(self, budget_id: str, breach: str, late: list[str], resume: list[str]) -> None:
        if late:
            await self._breach([(budget_id, member, breach, None) for member in late], tell_worker=True)
        if resume:
            replies = await self._store.call_many(
                [(partition_of(member), "budget_resume", _member(budget_id, member)) for member in resume]
            )
            told = list(_answered(resume, replies))
            await self._store.call_many([_settle(budget_id, stopped=[], resumed=told)])


def _member(budget_id: str, member: str) -> dict[str, Any]:
    execution_id, _, lease_id = member.partition("|")
    return {"budget_id": budget_id, "execution_id": execution_id, "lease_id": lease_id}


def _settle(budget_id: str, *, stopped: list[Any], resumed: list[str]) -> tuple[int, str, dict[str, Any]]:
    args = {"budget_id": budget_id, "stopped": stopped, "resumed": resumed}
    return partition_of(budget_id), "budget_settle", args


def _answered(members: Iterable[str], replies: Iterable[Result]) -> Iterable[str]:
    """Only those leave the list whose execution has been seen to."""
    for member, reply in zip(members, replies, strict=True):
        if not isinstance(reply, PenstockError):
            yield member


def _reply(result: dict[str, Any]) -> dict[str, Any]:
    totals = {name: {"soft": None, **total} for name, total in result["dimensions"].items()}
    return {"status": result["status"], "dimensions": totals, "state": result.get("state")}

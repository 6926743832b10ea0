"""Find out what each waiting worker gets: with one question to a partition, or two if several may have work.

If only one partition may have work, it is asked to hand the work out. If several may, each is first asked for its best
executions (`heads`), so that priority, age and fairness hold across them; then each hands out those chosen from it.
"""

import itertools
from collections.abc import Sequence

import msgspec

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.executions import MAX_TASKS
from penstock_scheduler.handing_out.parked import Ask, Parked, Profile
from penstock_scheduler.handing_out.shares import Choice, Share, heads_of_each, share


class Given(msgspec.Struct):
    """What one waiting worker got."""

    tasks: list[ops.Task] = []
    grants: dict[int, list[ops.Granted]] = {}
    """By partition of the execution: grants that other partitions must admit before they may be claimed."""


class Answer(msgspec.Struct):
    """The result of an ask."""

    given: list[Given]
    """One for each waiting worker, in the order of the ask."""
    exhausted: list[tuple[int, str]] = []
    """(partition, lane) pairs that have no more work."""
    error: PenstockError | None = None
    """The error of a partition that could not answer."""
    order: dict[str, int] = {}
    """For executions chosen among several partitions: the place of each, best first."""


class _Order(msgspec.Struct):
    """A question to one partition, and the workers (indexes in the ask) that it is for."""

    answer: Answer
    partition: int
    takers: list[int]
    lanes: Sequence[str]
    """Lanes that are exhausted unless the reply says that they may have more."""
    op: ops.HandOut


class HandOut:
    """The scheduler's questions for work to the state machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def __call__(self, asks: Sequence[Ask]) -> list[Answer]:
        """Hand out work for all asks, in one pipeline, or in two if an ask concerns several partitions."""
        answers = [Answer([Given() for _ in ask.takers]) for ask in asks]
        orders: list[_Order] = []
        several: list[tuple[Ask, Answer]] = []
        for ask, answer in zip(asks, answers, strict=True):
            if len(ask.partitions) == 1:
                op = ops.HandOut(takers=_described(ask.takers), **ask.search.asked_for(ask.wanted))
                takers = list(range(len(ask.takers)))
                orders.append(_Order(answer, ask.partitions[0], takers, ask.search.lanes, op))
            else:
                several.append((ask, answer))
        if several:
            orders += await self._chosen(several)
        replies = await self._machine.run_many(
            [order.op for order in orders], [order.partition for order in orders]
        )
        for order, reply in zip(orders, replies, strict=True):
            _settle(order, reply)
        for answer in answers:
            if answer.order:
                for given in answer.given:
                    given.tasks.sort(key=lambda task: answer.order[task.execution_id])
        return answers

    async def _chosen(self, several: Sequence[tuple[Ask, Answer]]) -> list[_Order]:
        """Return orders for the best executions of several partitions."""
        searches = [(ask.search, ask.partitions, ask.wanted) for ask, _ in several]
        orders: list[_Order] = []
        for (ask, answer), found in zip(several, await self._best(searches), strict=True):
            chosen, answer.exhausted, answer.error = found
            answer.order = {choice.execution_id: place for place, choice in enumerate(chosen.choices)}
            turns = _rounds([parked.request.max for parked in ask.takers])
            by_partition: dict[int, list[tuple[str, int]]] = {}
            for choice in chosen.choices:
                by_partition.setdefault(choice.partition, []).append((choice.execution_id, next(turns)))
            for partition in ask.partitions:
                picks = by_partition.get(partition, [])
                if not picks and not chosen.turns:
                    continue
                takers = sorted({taker for _, taker in picks})
                op = ops.HandOut(
                    takers=_described([ask.takers[taker] for taker in takers]),
                    ids=[execution_id for execution_id, _ in picks],
                    to=[takers.index(taker) + 1 for _, taker in picks],
                    turns=chosen.turns,
                )
                orders.append(_Order(answer, partition, takers, (), op))
        return orders

    async def _best(
        self, searches: Sequence[tuple[Profile, Sequence[int], int]]
    ) -> list[tuple[Share, list[tuple[int, str]], PenstockError | None]]:
        """Return for each search the best executions, the (partition, lane) pairs without work, and an error if any."""
        each = [heads_of_each(min(most, MAX_TASKS), len(partitions)) for _, partitions, most in searches]
        questions = [
            (partition, ops.Heads(**profile.asked_for(shown)))
            for (profile, partitions, _), shown in zip(searches, each, strict=True)
            for partition in partitions
        ]
        asked = [question for _, question in questions]
        replies = iter(await self._machine.run_many(asked, [partition for partition, _ in questions]))
        found: list[tuple[Share, list[tuple[int, str]], PenstockError | None]] = []
        for (profile, partitions, most), shown in zip(searches, each, strict=True):
            heads: dict[int, list[list[ops.Head]]] = {}
            exhausted: list[tuple[int, str]] = []
            error = None
            for partition in partitions:
                reply = next(replies)
                if isinstance(reply, PenstockError):
                    error = reply
                    continue
                heads[partition] = reply.lanes
                exhausted += [
                    (partition, lane)
                    for lane, of in zip(profile.lanes, reply.lanes, strict=True)
                    if not of and lane not in reply.more
                ]
            chosen = share(heads, profile.lanes, min(most, MAX_TASKS), shown)
            found.append((chosen, exhausted, error))
        return found

    async def grants(
        self, profile: Profile, partitions: Sequence[int], worker_id: str, most: int
    ) -> tuple[list[tuple[int, ops.Granted]], list[int]]:
        """Return grants with their partitions, best first, and partitions that may have more. Raise PenstockError."""
        if len(partitions) == 1:
            [partition] = partitions
            reply = await self._machine.run(
                ops.Grant(worker_id=worker_id, **profile.asked_for(most)), at=partition
            )
            return [(partition, each) for each in reply.grants], [partition] if reply.more else []
        [(chosen, exhausted, error)] = await self._best([(profile, partitions, most)])
        if error is not None:
            raise error
        orders: dict[int, ops.Grant] = {}
        for partition in partitions:
            ids = [choice.execution_id for choice in chosen.choices if choice.partition == partition]
            if ids or chosen.turns:
                orders[partition] = ops.Grant(worker_id=worker_id, ids=ids, turns=chosen.turns)
        granted: dict[Choice, ops.Granted] = {}
        replies = await self._machine.all_of(list(orders.values()), list(orders))
        for partition, reply in zip(orders, replies, strict=True):
            granted |= {Choice(partition, each.execution_id): each for each in reply.grants}
        grants = [(choice.partition, granted[choice]) for choice in chosen.choices if choice in granted]
        empty = {p for p in partitions if all((p, lane) in exhausted for lane in profile.lanes)}
        return grants, [p for p in partitions if p not in empty]


def _described(takers: Sequence[Parked]) -> list[ops.Taker]:
    return [parked.taker(parked.request.max) for parked in takers]


def _rounds(rooms: Sequence[int]) -> "itertools.chain[int]":
    """Yield the takers' indexes by turns, each as long as it has room."""
    return itertools.chain.from_iterable(
        [taker for taker, room in enumerate(rooms) if room > turn] for turn in range(max(rooms))
    )


def _settle(order: _Order, reply: ops.Given | PenstockError) -> None:
    if isinstance(reply, PenstockError):
        order.answer.error = reply
        return
    order.answer.exhausted += [(order.partition, lane) for lane in order.lanes if lane not in reply.more]
    for taker, tasks, grants in zip(order.takers, reply.tasks, reply.grants, strict=True):
        given = order.answer.given[taker]
        given.tasks += tasks
        if grants:
            given.grants[order.partition] = grants

"""Admit grants to limits that are kept in another partition than the execution. Rules: lua/limit/limits.lua.

A limit is kept in the partition that its token names. If that is not the execution's partition, a grant must be
admitted there before it may be used. Changes of slots and wake-ups travel as hints. A hint may be lost: the slot
then expires, and the wake-up is repeated.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.machine.tokens import by_home, home_of


class Admission:
    """The second step of a reservation across partitions, and the hints that keep reservations correct."""

    def __init__(self, machine: Machine, spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._machine = machine
        self._spawn = spawn

    async def admit(self, partition: int, grants: list[ops.Granted]) -> list[ops.Granted]:
        """Return the grants that may be used; take the others back."""
        if not any(grant.remote for grant in grants):
            return grants
        admitted = await asyncio.gather(*(self._admit(partition, grant) for grant in grants))
        return [grant for grant, yes in zip(grants, admitted, strict=True) if yes]

    async def _admit(self, partition: int, grant: ops.Granted) -> bool:
        for home, limit in by_home(grant.remote or []):
            ask = ops.Admit(limit=limit, slot=grant.slot, expires_at=grant.expires_at, asker=partition)
            if full := await self._machine.run(ask, at=home):
                await self._machine.run(
                    ops.Ungrant(execution_id=grant.execution_id, grant_id=grant.grant_id, full=full)
                )
                return False
        return True

    def slot(self, _partition: int, slots: Any) -> None:
        """Handle the `slot` hint. Each item: [partition, token, slot, expires_at (0: free), began (optional)]."""
        told = [
            ops.Slot(token=token, slot=slot, expires_at=expires_at, began=began[0] if began else True)
            for _, token, slot, expires_at, *began in slots
        ]
        self._spawn(self._machine.run_many(told, [partition for partition, *_ in slots]))

    def slot_check(self, _partition: int, slots: Any) -> None:
        """Handle the `slot_check` hint. Each item: [partition of the slot's execution, token, slot]."""
        self._spawn(self._ask_after(slots))

    async def _ask_after(self, slots: list[tuple[int, str, str]]) -> None:
        asked = [ops.SlotEnds(slot=slot) for _, _, slot in slots]
        answers = await self._machine.run_many(asked, [partition for partition, _, _ in slots])
        told = [
            ops.Slot(token=token, slot=slot, expires_at=answer.expires_at, began=True)
            for (_, token, slot), answer in zip(slots, answers, strict=True)
            if not isinstance(answer, PenstockError)
        ]
        await self._machine.run_many(told, [home_of(each.token) for each in told])

    def unblock(self, _partition: int, tokens: Any) -> None:
        """Handle the `unblock` hint. Each item: [partition, token, number of executions that there is room for]."""
        self._spawn(self._unblock(tokens))

    async def _unblock(self, tokens: list[tuple[int, str, int]]) -> None:
        asked = [ops.Unblock(token=token, room=room) for _, token, room in tokens]
        answers = await self._machine.run_many(asked, [partition for partition, _, _ in tokens])
        told = [
            ops.WaitRoom(token=token, waiter=partition)
            for (partition, token, _), answer in zip(tokens, answers, strict=True)
            if not isinstance(answer, PenstockError) and answer.left
        ]
        await self._machine.run_many(told, [home_of(each.token) for each in told])

"""Room in limits that are kept in another partition than the work. The rules stand in lua/limit/limits.lua.

A limit's books are kept in the partition that its token names. Where that is not the execution's own, a grant
is admitted there before it may be used; slots and wake-ups travel as hints, and run out or come again by
themselves when one is lost.
"""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import groupby
from typing import Any

from penstock.errors import PenstockError
from penstock.store import Store


class Admission:
    """The second step of a reservation that crosses partitions, and its upkeep."""

    def __init__(self, store: Store, spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._store = store
        self._spawn = spawn

    async def admit(self, partition: int, grants: list[list[Any]]) -> list[list[Any]]:
        """The grants that may be used; the others are taken back.

        A grant is [grant_id, execution_id, resumed, reclaim, expires_at, remote, slot].
        """
        if all(len(grant) < 6 or not grant[5] for grant in grants):
            return grants
        admitted = await asyncio.gather(*(self._admit(partition, grant) for grant in grants))
        return [grant for grant, yes in zip(grants, admitted, strict=True) if yes]

    async def _admit(self, partition: int, grant: list[Any]) -> bool:
        grant_id, execution_id, _, _, expires_at, *rest = grant
        remote, slot = rest or (None, None)
        for home, tokens in groupby(sorted(remote or (), key=_home), key=_home):
            question = {"limit": "&".join(tokens), "slot": slot, "expires_at": expires_at, "from": partition}
            if full := await self._store.call(home, "admit", question):
                taken_back = {"execution_id": execution_id, "grant_id": grant_id, "full": full}
                await self._store.call(partition, "ungrant", taken_back)
                return False
        return True

    def slot(self, _partition: int, slots: Any) -> None:
        """The `slot` hint: [partition, token, slot, expires_at or 0 when it is free, began] each."""
        self._later(
            [
                (partition, "slot", _slot(token, slot, expires_at, *began))
                for partition, token, slot, expires_at, *began in slots
            ]
        )

    def slot_check(self, _partition: int, slots: Any) -> None:
        """The `slot_check` hint: [partition of its execution, token, slot] each."""
        self._spawn(self._ask_after(slots))

    async def _ask_after(self, slots: list[tuple[int, str, str]]) -> None:
        asked = [(partition, "slot_ends", {"slot": slot}) for partition, _, slot in slots]
        answers = zip(slots, await self._store.call_many(asked), strict=True)
        await self._store.call_many(
            [
                (_home(token), "slot", _slot(token, slot, answer["expires_at"]))
                for (_, token, slot), answer in answers
                if not isinstance(answer, PenstockError)
            ]
        )

    def unblock(self, _partition: int, tokens: Any) -> None:
        """The `unblock` hint: [partition, token, for how many there is room] each."""
        self._spawn(self._unblock(tokens))

    async def _unblock(self, tokens: list[tuple[int, str, int]]) -> None:
        asked = [(partition, "unblock", {"token": token, "room": room}) for partition, token, room in tokens]
        answers = zip(tokens, await self._store.call_many(asked), strict=True)
        await self._store.call_many(
            [
                (_home(token), "wait_room", {"token": token, "from": str(partition)})
                for (partition, token, _), answer in answers
                if not isinstance(answer, PenstockError) and answer["left"]
            ]
        )

    def _later(self, calls: list[tuple[int, str, dict[str, Any]]]) -> None:
        self._spawn(self._store.call_many(calls))


def _home(token: str) -> int:
    """The partition that keeps a token's books."""
    return int(token.split("/")[1].split("-")[0])


def _slot(token: str, slot: str, expires_at: int, began: bool = True) -> dict[str, Any]:
    return {"token": token, "slot": slot, "expires_at": expires_at, "began": began}

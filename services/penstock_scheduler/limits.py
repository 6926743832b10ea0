"""What executions need room in: quotas, concurrency keys. The rules stand in lua/lib/limits.lua.

A limit's books are kept in the partition that its token names. Where that is not the execution's own, a grant is
admitted there before it may be used; slots and wake-ups travel as hints, and run out or come again by themselves
when one is lost.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError, make
from penstock.ids import new_id, partition_for, partition_of, uuid7
from penstock.messages.executions import ExecutionSpec
from penstock.messages.limits import QuotaCreate, QuotaGet
from penstock.store import Store
from penstock_scheduler.idempotency import digest

KNOWN_S: Final = 5.0
"""How long a quota that was seen counts as there."""


def limit_of(spec: ExecutionSpec, namespace: str, partitions: int) -> str | None:
    """The tokens that an execution needs room in, as lua/lib/limits.lua names them."""
    tokens: list[str] = []
    if spec.concurrency_key is not None:
        key = f"{namespace}.{spec.concurrency_key}"
        tokens.append(f"c/{partition_for(key, partitions)}/{spec.concurrency_limit}/{key}")
    if spec.quota_id is not None:
        tokens.append(f"q/{spec.quota_id}")
    return "&".join(tokens) or None


class Quotas:
    """Handlers about quotas, and whether one exists."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, float] = {}

    async def create(self, call: Call[QuotaCreate]) -> Sequence[Any]:
        item = call.items[0]
        if item.max_per_window is None and item.max_concurrent is None:
            raise _invalid("max_per_window", "give max_per_window with window_ms, or max_concurrent, or both")
        if (item.max_per_window is None) != (item.window_ms is None):
            raise _invalid("window_ms", "max_per_window and window_ms go together")
        key = item.idempotency_key
        partition = partition_for(f"{item.namespace}:{key}" if key else uuid7(), self._store.partitions)
        args = {**msgspec.structs.asdict(item), "id": new_id(partition), "digest": key and digest(item)}
        args["namespace"] = None if item.namespace == "default" else item.namespace
        return [await self._store.call(partition, "quota_create", args)]

    async def get(self, call: Call[QuotaGet]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._store.call(partition_of(item.quota_id), "quota_get", item)]

    async def delete(self, call: Call[QuotaGet]) -> Sequence[Any]:
        item = call.items[0]
        self._seen.pop(item.quota_id, None)
        return [await self._store.call(partition_of(item.quota_id), "quota_delete", item)]

    async def check(self, quota_ids: set[str]) -> dict[str, PenstockError]:
        """Those that do not exist, each with its error."""
        now = time.monotonic()
        unknown = [quota_id for quota_id in quota_ids if self._seen.get(quota_id, 0.0) < now]
        replies = await self._store.call_many(
            [(partition_of(quota_id), "quota_get", {"quota_id": quota_id}) for quota_id in unknown]
        )
        missing: dict[str, PenstockError] = {}
        for quota_id, reply in zip(unknown, replies, strict=True):
            if isinstance(reply, PenstockError):
                missing[quota_id] = reply
            else:
                self._seen[quota_id] = now + KNOWN_S
        return missing


class Admission:
    """The second step of a reservation that crosses partitions, and its upkeep."""

    def __init__(self, store: Store, spawn: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._store = store
        self._spawn = spawn

    async def admit(self, partition: int, grants: list[list[Any]]) -> list[list[Any]]:
        """The grants that may be used. A grant is [grant_id, execution_id, resumed, reclaim, expires_at, remote]."""
        if all(len(grant) < 6 or not grant[5] for grant in grants):
            return grants
        admitted = await asyncio.gather(*(self._admit(partition, grant) for grant in grants))
        return [grant for grant, ok in zip(grants, admitted, strict=True) if ok]

    async def _admit(self, partition: int, grant: list[Any]) -> bool:
        grant_id, execution_id, _, _, expires_at, *rest = grant
        for token in (rest[0] if rest else None) or ():
            reply = await self._store.call(
                int(token.split("/")[1].split("-")[0]),
                "admit",
                {"limit": token, "id": execution_id, "expires_at": expires_at, "from": partition},
            )
            if "code" in reply:
                await self._store.call(
                    partition,
                    "ungrant",
                    {
                        "execution_id": execution_id,
                        "grant_id": grant_id,
                        "code": reply["code"],
                        "at": reply["at"],
                    },
                )
                return False
        return True

    def slot(self, _partition: int, slots: Any) -> None:
        """The `slot` hint: [partition, token, execution_id, expires_at or 0 when it is free]."""
        self._later(
            [
                (partition, "slot", {"token": token, "id": execution_id, "expires_at": expires_at})
                for partition, token, execution_id, expires_at in slots
            ]
        )

    def unblock(self, _partition: int, tokens: Any) -> None:
        """The `unblock` hint: [partition, token] each."""
        self._later([(partition, "unblock", {"token": token}) for partition, token in tokens])

    def _later(self, calls: list[tuple[int, str, dict[str, Any]]]) -> None:
        self._spawn(self._store.call_many(calls))


def _invalid(field: str, message: str) -> PenstockError:
    return make("invalid_request", f"{field}: {message}", detail={"field": field})

"""The state machine inside a test: every service's ops on a real Valkey, without the services."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import msgspec

from penstock.errors import PenstockError
from penstock.ids import new_id
from penstock.store import Store
from penstock.verbs import SERVICES


class StateMachine:
    """`await machine("scheduler", "get", execution_id=…)` runs an op; `skew_ms` moves the clock."""

    def __init__(self) -> None:
        self.root = f"t{secrets.token_hex(5)}"
        self.skew_ms = 0
        self.hints: list[dict[str, Any]] = []
        self.stores: dict[str, Store] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, valkey_url: str, limits: dict[str, int] | None = None) -> AsyncIterator[Self]:
        machine = cls()
        async with AsyncExitStack() as stack:
            for service in SERVICES:
                store = await Store.connect(
                    valkey_url,
                    service=service,
                    root=machine.root,
                    dev=True,
                    limits=limits,
                    skew=lambda: machine.skew_ms,
                    on_hints=lambda _, hints: machine.hints.append(hints),
                )
                stack.push_async_callback(store.close)
                machine.stores[service] = store
            yield machine

    async def __call__(self, service: str, op: str, **args: Any) -> dict[str, Any]:
        return await self.stores[service].call(0, op, args)

    async def refused(self, service: str, op: str, **args: Any) -> PenstockError:
        """The error that an op must answer with."""
        try:
            reply = await self(service, op, **args)
        except PenstockError as error:
            return error
        raise AssertionError(f"{op} {args} was not refused: {reply}")

    async def due(self, service: str) -> None:
        """Handles everything that is due now, and nothing fails."""
        while True:
            reply = await self(service, "due", limit=100)
            assert not reply.get("errors"), reply
            if not reply["more"]:
                return

    def told(self, hint: str) -> list[Any]:
        """All items of this hint so far."""
        return [item for hints in self.hints for item in hints.get(hint, ())]

    async def create(self, **spec: Any) -> str:
        execution_id = new_id(0)
        await self("scheduler", "create", id=execution_id, namespace="default", spec={"kind": "t", **spec})
        return execution_id

    async def get(self, execution_id: str) -> dict[str, Any]:
        return await self("scheduler", "get", execution_id=execution_id)

    async def grant(self, most: int = 1) -> list[Any]:
        return (await self("scheduler", "grant", worker_id="w", lanes=["default"], max=most))["grants"]

    async def take(self, most: int = 1, *, start: bool = True, ttl_ms: int = 30_000) -> list[dict[str, Any]]:
        """Tasks that a worker `w` holds."""
        return [
            await self(
                "lease-keeper",
                "claim",
                grant_id=grant[0],
                execution_id=grant[1],
                worker_id="w",
                verb="any",
                start=start,
                lease_ttl_ms=ttl_ms,
            )
            for grant in await self.grant(most)
        ]

    async def outcome(self, op: str, task: dict[str, Any], **args: Any) -> dict[str, Any]:
        """One of the lease-keeper's ops with a task's fence."""
        fence = {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
        return await self("lease-keeper", op, **fence, **args)

    async def flow(
        self, keys: list[str], edges: list[tuple[str, str]] | None = None, *, start: bool = True
    ) -> tuple[str, dict[str, str]]:
        """A managed flow's id and its members' ids."""
        flow_id = new_id(0)
        members = {key: new_id(0) for key in keys}
        await self(
            "scheduler",
            "flow_create",
            id=flow_id,
            controller_id="c",
            goal="g",
            owner="o",
            state="{}",
            members=[{"key": key, "kind": "t", "execution_id": each} for key, each in members.items()],
            edges=[{"from": one, "to": other} for one, other in edges or []],
            joins={},
        )
        if start:
            await self("scheduler", "flow_start", flow_id=flow_id)
        return flow_id, members

    async def flow_get(self, flow_id: str) -> dict[str, Any]:
        return await self("scheduler", "flow_get", flow_id=flow_id)

    async def events(self, entity: str, entity_id: str) -> list[list[Any]]:
        """What the outbox tells of one entity: [seq, name, at, actor, from, to, reason, data] each."""
        found: list[list[Any]] = []
        entries = await self.stores["scheduler"].execute("XRANGE", f"{self.root}:{{0}}:outbox", "-", "+")
        for _, fields in entries:
            items = msgspec.msgpack.decode(fields[1])
            found += [
                event
                for head, event in zip(items[::2], items[1::2], strict=True)
                if head[0] == entity and head[2] == entity_id
            ]
        return found

    async def names(self, entity: str, entity_id: str) -> list[str]:
        """The names of those events, whose numbers have no gap."""
        events = await self.events(entity, entity_id)
        assert [event[0] for event in events] == list(range(1, len(events) + 1))
        return [event[1] for event in events]

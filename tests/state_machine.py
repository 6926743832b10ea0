"""The Lua state machine inside a test: every service's ops on a real Valkey, without the services."""

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

import msgspec

from penstock.errors import PenstockError
from penstock.ids import new_id
from penstock.machine import Machine
from penstock.machine.machine import error_of
from penstock.machine.ops import OPS
from penstock.machine.replies import inside
from penstock.messages.executions import ExecutionCreate
from penstock.verbs import SERVICES

_pack: Final = msgspec.msgpack.encode
_unpack: Final = msgspec.msgpack.decode
USUAL: Final[dict[str, Any]] = {
    "namespace": "default",
    "capabilities": [],
    "reason": "",
    "category": "error",
    "retryable": True,
    "message": "",
    "version": "",
    "status": "active",
    "grace_ms": 0,
    "reason_code": "signal",
    "timeout_behavior": "fail",
    "completion": "manual",
    "timezone": "UTC",
    "misfire": "catch_up",
    "on_satisfied": "let_run",
    "waitpoint_key": "default",
    "state": None,
    "edges": [],
    "joins": {},
    "controller_id": "c",
    "goal": "g",
    "event": "token_rejected",
    "expires_in_ms": 86_400_000,
    "lease_ttl_ms": 30_000,
}
"""Default arguments of ops, so that tests can leave them out."""


def taken_of(service: str, name: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return only the arguments that this op takes."""
    fields = {field.encode_name for field in msgspec.structs.fields(OPS[service.replace("-", "_"), name])}
    return {field: value for field, value in args.items() if field in fields}


class NamedOps:
    """One service's ops by name. Arguments and replies are dicts, checked against the types that the services use."""

    def __init__(self, machine: Machine, service: str) -> None:
        self.machine = machine
        self._service = service.replace("-", "_")

    async def call(self, partition: int, op: str, args: dict[str, Any]) -> dict[str, Any]:
        [reply] = await self.call_many([(partition, op, args)])
        if isinstance(reply, PenstockError):
            raise reply
        return reply

    async def call_many(
        self, calls: Sequence[tuple[int, str, dict[str, Any]]]
    ) -> list[dict[str, Any] | PenstockError]:
        """Submit all calls in one tick of the event loop, so that those of a partition share one FCALL."""
        futures = [self._submit(*call) for call in calls]
        return [self._reply(call[1], await future) for call, future in zip(calls, futures, strict=True)]

    async def execute(self, *command: Any) -> Any:
        return await self.machine.store.execute(*command)

    def _submit(self, partition: int, name: str, args: dict[str, Any]) -> Any:
        cls = OPS.get((self._service, name))
        if cls is None:  # an op that a test has added to the library
            return self.machine.store.submit(partition, _pack([name, args]), 1)
        fields = {field.encode_name for field in msgspec.structs.fields(cls)}
        wanted = {
            field.encode_name for field in msgspec.structs.fields(cls) if field.default is msgspec.NODEFAULT
        }
        given = {name: value for name, value in USUAL.items() if name in wanted} | args
        assert given.keys() <= fields, f"{name} takes no {given.keys() - fields}"
        spec = given.get("spec", {})
        is_child = "parent_id" in spec  # the spec of a child is a whole request
        op = msgspec.convert({**given, "spec": {"kind": "t"}} if is_child else given, inside(cls))
        if is_child:
            op.spec = msgspec.convert(spec, inside(ExecutionCreate))
        return self.machine.store.submit(partition, op.packed(), op.cost())

    def _reply(self, name: str, packed: bytes) -> dict[str, Any] | PenstockError:
        reply = _unpack(packed)
        if isinstance(reply, dict) and "error" in reply:
            return error_of(packed)
        if (cls := OPS.get((self._service, name))) is not None:
            typed = cls.meta.decode(packed)
            if isinstance(typed, msgspec.Struct) and isinstance(reply, dict):
                known = {field.encode_name for field in msgspec.structs.fields(type(typed))}
                assert reply.keys() <= known, f"{name} answers {reply.keys() - known}, which its type lacks"
            if typed is None:
                assert reply is None, f"{name} answers {reply}, its type nothing"
        return reply if reply is not None else {}


class StateMachine:
    """All services' ops: `await machine("scheduler", "get", execution_id=…)` runs one; `skew_ms` moves the clock."""

    def __init__(self) -> None:
        self.root = f"t{secrets.token_hex(5)}"
        self.skew_ms = 0
        self.hints: list[dict[str, Any]] = []
        self.stores: dict[str, NamedOps] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, valkey_url: str, limits: dict[str, int] | None = None) -> AsyncIterator[Self]:
        machine = cls()
        async with AsyncExitStack() as stack:
            for service in SERVICES:
                service_machine = await Machine.connect(
                    valkey_url,
                    service=service,
                    root=machine.root,
                    dev=True,
                    limits=limits,
                    skew=lambda: machine.skew_ms,
                    on_hints=lambda _, hints: machine.hints.append(hints),
                )
                stack.push_async_callback(service_machine.close)
                machine.stores[service] = NamedOps(service_machine, service)
            yield machine

    async def __call__(self, service: str, op: str, **args: Any) -> dict[str, Any]:
        return await self.stores[service].call(0, op, args)

    async def refused(self, service: str, op: str, **args: Any) -> PenstockError:
        """Run an op that must be refused. Return the error."""
        try:
            reply = await self(service, op, **args)
        except PenstockError as error:
            return error
        raise AssertionError(f"{op} {args} was not refused: {reply}")

    async def due(self, service: str) -> None:
        """Do all work of a service that is due now; assert that none fails."""
        while True:
            reply = await self(service, "due", limit=100)
            assert not reply.get("errors"), reply
            if not reply["more"] and reply.get("next_at", math.inf) > reply["now"]:
                return

    def told(self, hint: str) -> list[Any]:
        """Return all items of this hint so far."""
        return [item for hints in self.hints for item in hints.get(hint, ())]

    async def create(self, limit: str | None = None, **spec: Any) -> str:
        execution_id = new_id(0)
        await self("scheduler", "create", id=execution_id, spec={"kind": "t", **spec}, limit=limit)
        return execution_id

    async def get(self, execution_id: str) -> dict[str, Any]:
        return await self("scheduler", "get", execution_id=execution_id)

    async def grant(self, most: int = 1) -> list[Any]:
        return (await self("scheduler", "grant", worker_id="w", lanes=["default"], max=most))["grants"]

    async def take(self, most: int = 1, *, start: bool = True, ttl_ms: int = 30_000) -> list[dict[str, Any]]:
        """Lease ready executions to worker `w`. Return the tasks."""
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
        """Run one of the lease-keeper's ops with a task's fence."""
        fence = {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
        return await self("lease-keeper", op, **fence, **args)

    async def flow(
        self, keys: list[str], edges: list[tuple[str, str]] | None = None, *, start: bool = True
    ) -> tuple[str, dict[str, str]]:
        """Create a managed flow. Return its id and its members' ids by key."""
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
        """Return the outbox events of one entity, each as [seq, name, at, actor, from, to, reason, data]."""
        found: list[list[Any]] = []
        entries = await self.stores["scheduler"].execute("XRANGE", f"{self.root}:{{0}}:outbox", "-", "+")
        for _, fields in entries:
            items = msgspec.msgpack.decode(fields[1])
            found += [
                event
                for head, event in zip(items[::2], items[1::2], strict=True)
                if head[0] == entity and entity_id in (head[2] if isinstance(head[2], list) else [head[2]])
            ]
        return found

    async def names(self, entity: str, entity_id: str) -> list[str]:
        """Return the names of an entity's events; assert that their numbers have no gap."""
        events = await self.events(entity, entity_id)
        assert [event[0] for event in events] == list(range(1, len(events) + 1))
        return [event[1] for event in events]

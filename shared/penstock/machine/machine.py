"""`Machine`: the only way into the state machine. `reply = await machine.run(ops.Renew(…))`."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Self, TypeVar, cast

import msgspec

from penstock.clock import ValkeyClock
from penstock.errors import PenstockError, make
from penstock.ids import Uuid7
from penstock.machine.op import Op
from penstock.machine.ops.common import Deployment, Now, Ping
from penstock.store import Store

log: Final = logging.getLogger(__name__)
R = TypeVar("R")
N = TypeVar("N", bound=Now)
_ERROR: Final = b"\x81\xa5error"
_unpack: Final = msgspec.msgpack.Decoder().decode


class DeploymentError(Exception):
    """The settings do not fit the deployment that is there; the message says what to do."""


class Machine:
    """The state machine, as one service sees it: its operations, in all partitions."""

    def __init__(self, store: Store, partitions: int = 1) -> None:
        self.store = store
        self.partitions = partitions
        self.clock = ValkeyClock()
        self._ids = Uuid7()

    @classmethod
    async def connect(cls, url: str, *, partitions: int = 1, **options: Any) -> Self:
        """Connects, and loads the library. `options`: those of `Store`.

        Raises PenstockError("valkey_unavailable"), LibraryError for another build of the same version, or
        DeploymentError when the deployment was started with another number of partitions.
        """
        machine = cls(Store(url, **options), partitions)
        try:
            await machine.store.ensure_library()
            await machine.ensure_partitions()
        except BaseException:
            machine.store.disconnect()
            raise
        return machine

    async def ensure_partitions(self) -> None:
        """Fixes the number of partitions for good at a deployment's first start; another number is refused.

        An id, an idempotency key and a concurrency key name the partition that keeps their books: with another
        number of partitions they would lead elsewhere.
        """
        kept = (await self._timed(Deployment(partitions=self.partitions))).partitions
        if kept != self.partitions:
            raise DeploymentError(
                f"the deployment under the root {self.store.root!r} was started with {kept} partitions and keeps them: "
                f"set PENSTOCK_PARTITIONS={kept} (it is {self.partitions}), or take another root"
            )

    async def ping(self) -> None:
        """Raises PenstockError("valkey_unavailable") unless Valkey runs this service's function."""
        await self._timed(Ping())

    async def _timed(self, op: Op[N]) -> N:
        """An operation that answers with Valkey's `now`, which `clock` learns."""
        sent = time.monotonic()
        reply = await self.run(op, at=0)
        self.clock.learn(reply.now, sent, time.monotonic())
        return reply

    async def close(self) -> None:
        """Waits for what is under way and disconnects."""
        await self.store.close()

    def new_id(self, partition: int) -> str:
        """A new id in this partition. Lists sort by ids, so their time is Valkey's, not this machine's."""
        return f"{partition}-{self._ids.make(int(self.clock.now()))}"

    async def run(self, op: Op[R], at: int | None = None) -> R:
        """One operation. `at`: the partition, where the operation names none.

        Raises PenstockError: a refusal of the state machine, or `valkey_unavailable`.
        """
        reply = await self._submit(op, at)
        if reply.startswith(_ERROR):
            raise error_of(reply)
        return cast("R", op.meta.decode(reply))

    def run_many(
        self, ops: Sequence[Op[R]], at: Sequence[int] | None = None
    ) -> Coroutine[Any, Any, list[R | PenstockError]]:
        """Many operations at once, answered in their order, failures among the answers. `at`: the partition of each.

        They are on their way when this returns: what is run next comes behind them.
        """
        places: Sequence[int | None] = at or [None] * len(ops)
        return self._answers(ops, [self._submit(op, place) for op, place in zip(ops, places, strict=True)])

    async def everywhere(self, op: Op[R]) -> list[R]:
        """The operation in every partition, answered in their order. Raises the first PenstockError."""
        return await self.all_of([op] * self.partitions, range(self.partitions))

    async def all_of(self, ops: Sequence[Op[R]], at: Sequence[int] | None = None) -> list[R]:
        """As `run_many`, where one failure is a failure of all. Raises the first PenstockError."""
        replies = await self.run_many(ops, at)
        for reply in replies:
            if isinstance(reply, PenstockError):
                raise reply
        return cast("list[R]", replies)

    def _submit(self, op: Op[Any], at: int | None) -> "asyncio.Future[bytes]":
        return self.store.submit(op.home() if at is None else at, op.packed(), op.cost())

    async def _answers(
        self, ops: Sequence[Op[R]], futures: "Sequence[asyncio.Future[bytes]]"
    ) -> list[R | PenstockError]:
        answers: list[R | PenstockError] = []
        for op, future in zip(ops, futures, strict=True):
            try:
                reply = await future
            except PenstockError as error:
                answers.append(error)
                continue
            answers.append(error_of(reply) if reply.startswith(_ERROR) else op.meta.decode(reply))
        return answers


def error_of(reply: bytes) -> PenstockError:
    """The error that a packed reply stands for."""
    body = cast("dict[str, Any]", _unpack(reply)["error"])
    if body["code"] == "internal":
        log.error("the state machine failed: %s", body.get("message"))
        return make("internal")
    # An empty Lua table arrives as an array.
    error = make(body["code"], body.get("message"), detail=body.get("detail") or None)
    if "retry_after_ms" in error.detail:
        error.retry_after_ms = error.detail["retry_after_ms"]
    return error

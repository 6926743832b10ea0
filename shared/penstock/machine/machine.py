"""`Machine`: runs all operations of the state machine. `reply = await machine.run(ops.Renew(…))`."""

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Self, TypeVar, cast

import msgspec

from penstock.clock import ValkeyClock
from penstock.errors import PenstockError, make
from penstock.ids import Uuid7
from penstock.machine.op import Op
from penstock.machine.ops.common import Deployment, HintKey, Now, Ping
from penstock.store import Store
from penstock.who import asking

log: Final = logging.getLogger(__name__)
R = TypeVar("R")
N = TypeVar("N", bound=Now)
_ERROR: Final = b"\x81\xa5error"
_unpack: Final = msgspec.msgpack.Decoder().decode


class DeploymentError(Exception):
    """The settings do not fit the existing deployment; the message says what to do."""


class Machine:
    """The state machine, as one service calls it: runs that service's operations in any partition."""

    def __init__(self, store: Store, partitions: int = 1) -> None:
        self.store = store
        self.partitions = partitions
        self.clock = ValkeyClock()
        self._ids = Uuid7()

    @classmethod
    async def connect(cls, url: str, *, partitions: int = 1, **options: Any) -> Self:
        """Connect, and load the library. `options`: those of `Store`.

        Raise PenstockError("valkey_unavailable"), UrlError for a wrong URL, LibraryError for another build of the same
        version, or DeploymentError when the deployment was started with another number of partitions.
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
        """Fix the number of partitions at a deployment's first start; later, raise DeploymentError for another number.

        The partition of an idempotency key or a concurrency key is its hash modulo that number: with another number
        the same key would lead to another partition.
        """
        kept = (await self._timed(Deployment(partitions=self.partitions))).partitions
        if kept != self.partitions:
            raise DeploymentError(
                f"the deployment under the root {self.store.root!r} was started with {kept} partitions and keeps them: "
                f"set PENSTOCK_PARTITIONS={kept} (it is {self.partitions}), or take another root"
            )

    async def hint_key(self) -> bytes:
        """Return the key that the deployment's services sign hints with. The first one to ask makes it.

        It lies in Valkey because only services reach that. Raise PenstockError("valkey_unavailable").
        """
        kept = await self._timed(HintKey(key=secrets.token_hex(32)))
        return bytes.fromhex(kept.key)

    async def ping(self) -> None:
        """Run a no-op in Valkey. Raise PenstockError("valkey_unavailable") unless this service's function answers."""
        await self._timed(Ping())

    async def _timed(self, op: Op[N]) -> N:
        """Run an operation whose reply has Valkey's `now`, and correct `clock` by it."""
        sent = time.monotonic()
        reply = await self.run(op, at=0)
        self.clock.learn(reply.now, sent, time.monotonic())
        return reply

    async def close(self) -> None:
        """Wait for the calls under way and disconnect."""
        await self.store.close()

    def new_id(self, partition: int) -> str:
        """Return a new id in this partition. Its time is Valkey's, not this host's, because lists sort by id."""
        return f"{partition}-{self._ids.make(int(self.clock.now()))}"

    async def run(self, op: Op[R], at: int | None = None) -> R:
        """Run one operation and return its reply. `at`: the partition, if the operation names none.

        Raise PenstockError: a refusal by the state machine, or `valkey_unavailable`.
        """
        reply = await self._submit(op, at)
        if reply.startswith(_ERROR):
            raise error_of(reply)
        return cast("R", op.meta.decode(reply))

    def run_many(
        self, ops: Sequence[Op[R]], at: Sequence[int] | None = None
    ) -> Coroutine[Any, Any, list[R | PenstockError]]:
        """Run many operations at once. Return replies and errors in the same order. `at`: the partition of each.

        The operations are queued before the result is awaited, so an operation run later comes after them.
        """
        places: Sequence[int | None] = at or [None] * len(ops)
        return self._answers(ops, [self._submit(op, place) for op, place in zip(ops, places, strict=True)])

    async def everywhere(self, op: Op[R]) -> list[R]:
        """Run the operation in every partition. Return the replies by partition. Raise the first PenstockError."""
        return await self.all_of([op] * self.partitions, range(self.partitions))

    async def glance(self, op: Op[R]) -> list[R]:
        """As `everywhere`, for an operation that only reads, with one call to each server (`look`)."""
        return raised(await self.look([op] * self.partitions, range(self.partitions)))

    async def look(self, ops: Sequence[Op[R]], at: Sequence[int]) -> list[R | PenstockError]:
        """As `run_many` for operations that only read, at most one in each partition: one call to each server.

        What a look does not answer is asked once more, the ordinary way.
        """
        answers: dict[int, R | PenstockError] = {}
        left = list(range(len(ops)))
        while left:
            found = await self.store.look({at[i]: ops[i].packed() for i in left})
            packed = {i: reply for i in left if (reply := found.get(at[i])) and not reply.startswith(_ERROR)}
            if not packed:
                asked = await self.run_many([ops[i] for i in left], [at[i] for i in left])
                answers.update(zip(left, asked, strict=True))
                break
            answers.update((i, ops[i].meta.decode(reply)) for i, reply in packed.items())
            left = [i for i in left if i not in answers]
        return [answers[i] for i in range(len(ops))]

    async def all_of(self, ops: Sequence[Op[R]], at: Sequence[int] | None = None) -> list[R]:
        """As `run_many`, but raise the first PenstockError instead of returning errors."""
        return raised(await self.run_many(ops, at))

    def _submit(self, op: Op[Any], at: int | None) -> "asyncio.Future[bytes]":
        return self.store.submit(op.home() if at is None else at, op.packed(asking.get()), op.cost())

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


def raised(replies: list[R | PenstockError]) -> list[R]:
    """Return the replies. Raise the first PenstockError among them."""
    for reply in replies:
        if isinstance(reply, PenstockError):
            raise reply
    return cast("list[R]", replies)


def error_of(reply: bytes) -> PenstockError:
    """Make the exception for a packed error reply."""
    body = cast("dict[str, Any]", _unpack(reply)["error"])
    if body["code"] == "internal":
        log.error("the state machine failed: %s", body.get("message"))
        return make("internal")
    # An empty Lua table arrives as an array.
    error = make(body["code"], body.get("message"), detail=body.get("detail") or None)
    if "retry_after_ms" in error.detail:
        error.retry_after_ms = error.detail["retry_after_ms"]
    return error

"""Idempotency keys: what tells two bodies under one key apart, and how a key is kept across partitions."""

import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from penstock.errors import PenstockError
from penstock.ids import partition_for
from penstock.machine.machine import Machine
from penstock.machine.ops.scheduler import Forget, Remember, Settle
from penstock.messages.executions import ExecutionCreated

_canonical: Final = msgspec.json.Encoder(order="deterministic").encode
_UNDECIDED: Final = frozenset({"unavailable", "internal"})
C = TypeVar("C", bound=ExecutionCreated)


class Keyed(Protocol):
    """A request that may carry a key."""

    idempotency_key: str | None


def digest(request: Keyed) -> str | None:
    """Equal requests have equal digests, in whatever order their fields came. None for a request without a key."""
    if request.idempotency_key is None:
        return None
    return hashlib.blake2b(_canonical(request), digest_size=16).hexdigest()


def home_for(namespace: str, key: str | None, partitions: int) -> int:
    """The partition for something new: the same key must meet the same memory of keys; without one, any."""
    if key is None:
        return random.randrange(partitions) if partitions > 1 else 0
    return partition_for(f"{namespace}:{key}", partitions)


async def once(
    machine: Machine,
    verb: str,
    namespace: str,
    request: Keyed,
    partition: int,
    make: Callable[[str, bool], Awaitable[C]],
    reply: type[C],
) -> C:
    """Makes an execution that must live in `partition`; its key is remembered where keys of that name are.

    The id is settled there first: whoever comes again after a crash goes on with the same one, so `make(id, again)` may
    be repeated; `again` says that the id was settled by an earlier request, so what exists under it is a duplicate.
    Raises what `make` raises, and `idempotency_conflict`.
    """
    key, body = request.idempotency_key or "", digest(request) or ""
    home = home_for(namespace, key, machine.partitions)
    fresh = machine.new_id(partition)
    kept = await machine.run(
        Remember(verb=verb, namespace=namespace, key=key, digest=body, execution_id=fresh), at=home
    )
    if kept.reply is not None:
        first = msgspec.convert(kept.reply, reply)
        first.duplicate = True
        return first
    try:
        made = await make(kept.execution_id, kept.execution_id != fresh)
    except PenstockError as error:
        if error.error_class not in _UNDECIDED:
            await machine.run(Forget(verb=verb, namespace=namespace, key=key), at=home)
        raise
    await machine.run(Settle(verb=verb, namespace=namespace, key=key, digest=body, reply=made), at=home)
    return made

"""Idempotency keys: the digest that compares two requests under one key, and keys kept in another partition."""

import hashlib
import random
import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from penstock.errors import PenstockError
from penstock.ids import partition_for
from penstock.machine.machine import Machine
from penstock.machine.ops.scheduler import Forget, Remember, Settle
from penstock.messages.common import CODED
from penstock.messages.executions import ExecutionCreated

_canonical: Final = msgspec.json.Encoder(order="deterministic").encode
_UNDECIDED: Final = frozenset({"unavailable", "internal"})
# Payloads are JSON text inside the request's JSON. The fields of an envelope hold no braces (penstock.codecs).
_CODED: Final = rf"\"{CODED}\"".encode()
_ENVELOPE: Final = re.compile(re.escape(_CODED) + rb":\{[^{}]*\}")
_TRACEPARENT: Final = re.compile(rb',"traceparent":"[^"]*"')
C = TypeVar("C", bound=ExecutionCreated)


class Keyed(Protocol):
    """A request that may carry an idempotency key."""

    idempotency_key: str | None


def digest(request: Keyed) -> str | None:
    """Return the request's digest, the same in any order of fields. Return None for a request without a key.

    What a payload codec made is left out, and so is the trace context: both are new each time that a request is made.
    """
    if request.idempotency_key is None:
        return None
    body = _canonical(request)
    if b'"traceparent"' in body:
        body = _TRACEPARENT.sub(b"", body)
    if _CODED in body:
        body = _ENVELOPE.sub(b"coded", body)
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def home_for(namespace: str, key: str | None, partitions: int) -> int:
    """Choose a new entity's partition: by its key, so that a repeat meets the kept key; without one, at random."""
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
    """Make an execution that must live in `partition`, once per idempotency key, which is kept in its home partition.

    The execution's id is settled in the key's partition first, so a repeat after a crash uses the same id and may call
    `make(id, again)` again. `again`: an earlier request settled the id, so an execution with that id is a duplicate.
    Raise what `make` raises, and `idempotency_conflict`.
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

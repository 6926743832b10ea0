"""Idempotency keys: what tells two bodies under one key apart, and how a key is kept across partitions."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from penstock.errors import PenstockError
from penstock.ids import partition_for
from penstock.store import Store

_canonical = msgspec.json.Encoder(order="deterministic").encode
_UNDECIDED: Final = frozenset({"unavailable", "internal"})


def digest(request: msgspec.Struct) -> str:
    """Equal requests have equal digests, in whatever order their fields came."""
    return hashlib.blake2b(_canonical(request), digest_size=16).hexdigest()


def created(reply: dict[str, Any]) -> dict[str, Any]:
    """What a creating verb answers: also whether it answered this before."""
    return {"duplicate": False, **reply}


async def once(
    store: Store,
    verb: str,
    namespace: str,
    key: str,
    body: str,
    partition: int,
    make: Callable[[str, bool], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Makes an execution that must live in `partition`; its key is remembered where keys of that name are.

    `body` is the request's digest. The id is settled there first: whoever comes again after a crash goes
    on with the same one, so `make(id, again)` may be repeated; `again` says that the id was settled by an earlier
    request, so what exists under it is a duplicate. Raises what `make` raises, and `idempotency_conflict`.
    """
    home = partition_for(f"{namespace}:{key}", store.partitions)
    scope = {"verb": verb, "namespace": namespace, "key": key}
    entry = scope | {"digest": body}
    fresh = store.new_id(partition)
    kept = await store.call(home, "remember", entry | {"execution_id": fresh})
    if first := kept.get("reply"):
        return {**first, "duplicate": True}
    try:
        reply = await make(kept["execution_id"], kept["execution_id"] != fresh)
    except PenstockError as error:
        if error.error_class not in _UNDECIDED:
            await store.call(home, "forget", scope)
        raise
    await store.call(home, "settle", entry | {"reply": reply})
    return reply

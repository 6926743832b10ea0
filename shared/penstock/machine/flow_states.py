"""A flow's state changes: JSON is merged here, never in Lua. What was read is written back only at its own revision."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET

from penstock.errors import PenstockError, make
from penstock.machine.machine import Machine
from penstock.machine.ops.common import FlowState, StateSeen
from penstock.messages.flows import Flow, FlowUpdateState

TRIES: Final = 2
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.encode


def merge(state: str, patch: str) -> str:
    """A shallow merge; a patch that is not an object replaces, one that is replaces what is none.

    Values pass byte for byte, and keys keep their order.
    """
    if not patch.lstrip().startswith("{"):
        return patch
    merged = _object(state) if state.lstrip().startswith("{") else {}
    merged.update(_object(patch))
    return _encode(merged).decode()


def patch_of(item: FlowUpdateState) -> str | None:
    """The request's patch as JSON text; None where it has none."""
    # By now a payload is its JSON text, or None for null.
    patch: Any = item.state_patch
    return None if patch is UNSET else patch or "null"


async def change(
    machine: Machine,
    item: FlowUpdateState,
    merged: Callable[[StateSeen], str] | None,
    write: Callable[[str | None, int | None], Awaitable[Flow]],
) -> Flow:
    """Reads the state, merges, and writes it with `write(state, revision)`; twice, where no revision is expected.

    merged: None leaves the state as it is, and nothing is read. Raises what reading and writing raise.
    """
    if merged is None:
        return await write(None, item.expected_revision)
    tries = TRIES if item.expected_revision is None else 1
    while True:
        seen = await machine.run(FlowState(flow_id=item.flow_id))
        known = item.expected_revision in (None, seen.revision)
        try:
            # At a revision that the caller does not know, the operation itself says so.
            return await write(merged(seen) if known else None, item.expected_revision or seen.revision)
        except PenstockError as error:
            tries -= 1
            if error.code != "revision_mismatch" or not tries:
                raise


def checked(state: str, limit: int) -> str:
    """The state. Raises `payload_too_large` past `limit` bytes."""
    size = len(state.encode())
    if size > limit:
        raise make(
            "payload_too_large",
            f"state would have {size} bytes; the limit is {limit}",
            detail={"field": "state", "limit": limit, "size": size},
        )
    return state

"""Changes of a flow's state. JSON is merged here, never in Lua, and written only if the revision is unchanged."""

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
    """Merge a patch shallowly into a state (both JSON text). If either is no object, the patch replaces the state.

    Values are copied byte for byte, and keys keep their order.
    """
    if not patch.lstrip().startswith("{"):
        return patch
    merged = _object(state) if state.lstrip().startswith("{") else {}
    merged.update(_object(patch))
    return _encode(merged).decode()


def patch_of(item: FlowUpdateState) -> str | None:
    """Return the request's patch as JSON text, or None if the request has none."""
    # Inside a service a payload field holds JSON text, or None for null.
    patch: Any = item.state_patch
    return None if patch is UNSET else patch or "null"


async def change(
    machine: Machine,
    item: FlowUpdateState,
    merged: Callable[[StateSeen], str] | None,
    write: Callable[[str | None, int | None], Awaitable[Flow]],
) -> Flow:
    """Read the state, merge, and call `write(state, revision)`. Try twice if the request expects no revision.

    merged: makes the new state; if None, the state is neither read nor changed. Raise what reading and writing raise.
    """
    if merged is None:
        return await write(None, item.expected_revision)
    tries = TRIES if item.expected_revision is None else 1
    while True:
        seen = await machine.run(FlowState(flow_id=item.flow_id))
        expected = seen.revision if item.expected_revision is None else item.expected_revision
        try:
            # If the expected revision is not the current one, the operation itself raises revision_mismatch.
            return await write(merged(seen) if expected == seen.revision else None, expected)
        except PenstockError as error:
            tries -= 1
            if error.code != "revision_mismatch" or not tries:
                raise


def checked(state: str, limit: int) -> str:
    """Return the state. Raise `payload_too_large` if it has more than `limit` bytes."""
    size = len(state.encode())
    if size > limit:
        raise make(
            "payload_too_large",
            f"state would have {size} bytes; the limit is {limit}",
            detail={"field": "state", "limit": limit, "size": size},
        )
    return state

"""A task as its worker gets it: what edges hand on is merged into its input."""

from typing import Any

from penstock.errors import PenstockError, make
from penstock.store.specs import merge


def sendable(reply: dict[str, Any], limit: int) -> dict[str, Any] | PenstockError:
    """The state machine's task, ready for the wire. An input past `limit` bytes is `payload_too_large`."""
    handed_on = reply.pop("edge_inputs", None)
    if handed_on:
        text = merge(reply.get("input"), handed_on)
        # What edges gather may be larger than one payload, but NATS must carry it.
        if len(text) > 4 * limit:
            return make(
                "payload_too_large",
                f"the results that edges hand on make an input of {len(text)} bytes; the limit is {4 * limit}",
                detail={"field": "input", "limit": 4 * limit, "size": len(text)},
            )
        reply["input"] = text
    reply.setdefault("input", None)
    reply["tags"] = reply.get("tags") or {}  # an empty table comes as an array
    reply.setdefault("deadline_at", None)
    return reply

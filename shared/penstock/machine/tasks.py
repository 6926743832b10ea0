"""A task as its worker gets it: what edges hand on is merged into its input."""

from msgspec import UNSET

from penstock.errors import PenstockError, make
from penstock.machine.ops.common import Task
from penstock.machine.specs import merge


def sendable(task: Task, limit: int) -> Task | PenstockError:
    """The task, ready for the wire. An input past `limit` bytes is `payload_too_large`."""
    if task.edge_inputs is not UNSET:
        text = merge(task.input, task.edge_inputs)
        # What edges gather may be larger than one payload, but NATS must carry it.
        if len(text) > 4 * limit:
            return make(
                "payload_too_large",
                f"the results that edges hand on make an input of {len(text)} bytes; the limit is {4 * limit}",
                detail={"field": "input", "limit": 4 * limit, "size": len(text)},
            )
        task.input, task.edge_inputs = text, UNSET
    return task

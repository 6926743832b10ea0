"""Prepares a task for its worker: its journal, and the results that edges hand on, merged into its input."""

from msgspec import UNSET

from penstock.errors import PenstockError, make
from penstock.machine.journal import opened
from penstock.machine.ops.common import Task
from penstock.machine.specs import merge


def sendable(task: Task, limit: int) -> Task | PenstockError:
    """Return the task, ready for the wire, or `payload_too_large` if its merged input exceeds 4 * `limit`."""
    if task.riding is not UNSET:
        task.journal, task.riding = opened(task.riding), UNSET
    if task.edge_inputs is not UNSET:
        text = merge(task.raw_input, task.edge_inputs)
        # The results of several edges may exceed one payload's limit together, but must fit a NATS message.
        size = len(text.encode())
        if size > 4 * limit:
            return make(
                "payload_too_large",
                f"the results that edges hand on make an input of {size} bytes; the limit is {4 * limit}",
                detail={"field": "input", "limit": 4 * limit, "size": size},
            )
        task.raw_input, task.edge_inputs = text, UNSET
    return task

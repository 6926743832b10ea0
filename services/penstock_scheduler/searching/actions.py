"""What a bulk change does to one execution: the operation of the verb with the same name."""

import hashlib
from collections.abc import Sequence
from typing import Any

from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.op import Op
from penstock.machine.ops import scheduler as ops
from penstock.messages.cancellation import DEFAULT_GRACE_MS
from penstock.messages.control import ExecutionReplay
from penstock.messages.search import ExecutionRow
from penstock_scheduler.executions.control import replayed


async def change(
    machine: Machine, bulk: ops.BulkKept, rows: Sequence[ExecutionRow]
) -> list[Any | PenstockError]:
    """Change these executions. Return what each operation returned, or its error, in the same order."""
    if bulk.action != "replay":
        return await machine.run_many([_op(bulk, row) for row in rows])
    changed: list[Any | PenstockError] = []
    for row in rows:
        try:
            item = ExecutionReplay(execution_id=row.execution_id)
            changed.append(await replayed(machine, item, replay_id(bulk, row.execution_id), again=True))
        except PenstockError as error:
            changed.append(error)
    return changed


def replay_id(bulk: ops.BulkKept, execution_id: str) -> str:
    """Return the id of the execution that this step makes of another one: the same one if the step is repeated.

    It is a version 7 UUID with the time of the step before; what is random in others is a hash here.
    """
    stamp = f"{bulk.step_at:012x}"
    tail = hashlib.blake2b(f"{bulk.bulk_id} {execution_id}".encode(), digest_size=10).hexdigest()
    variant = "89ab"[int(tail[3], 16) & 3]
    uuid = f"{stamp[:8]}-{stamp[8:]}-7{tail[:3]}-{variant}{tail[4:7]}-{tail[7:19]}"
    return f"{partition_of(execution_id)}-{uuid}"


def _op(bulk: ops.BulkKept, row: ExecutionRow) -> Op[Any]:
    id = row.execution_id
    match bulk.action:
        case "cancel":
            grace_ms = DEFAULT_GRACE_MS if bulk.grace_ms is None else bulk.grace_ms
            return ops.Cancel(execution_id=id, reason=bulk.reason, grace_ms=grace_ms)
        case "suspend":
            return ops.BulkHold(execution_id=id, reason=bulk.reason, bulk_id=bulk.bulk_id)
        case "resume":
            return ops.BulkResume(execution_id=id, reason=bulk.reason, bulk_id=bulk.bulk_id)
        case "revoke":
            return ops.BulkRevoke(execution_id=id, reason=bulk.reason, bulk_id=bulk.bulk_id)
        case "signal":
            return ops.BulkSend(
                execution_id=id,
                waitpoint_key=bulk.waitpoint_key,
                # The same for a repeated step, so that the signal counts once.
                signal_id=f"{bulk.bulk_id}.{id}",
                name=bulk.name or "",
                payload=bulk.payload,
                reason=bulk.reason,
                bulk_id=bulk.bulk_id,
            )
        case "run_now":
            return ops.RunNow(execution_id=id)
        case "change_priority":
            return ops.ChangePriority(execution_id=id, priority=bulk.priority or 0)
        case _:
            return ops.SetTags(execution_id=id, tags=row.tags | (bulk.tags or {}))

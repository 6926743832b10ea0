"""The verb flow.create_mirrored."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import invalid
from penstock.machine import Machine
from penstock.machine.idempotency import digest, home_for
from penstock.machine.ops import mirror_observer as ops
from penstock.messages.flows import FlowCreateMirrored
from penstock.messages.mirror_rules import RuleCreate


class Flows:
    """The handler of flow.create_mirrored."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def create_mirrored(self, call: Call[FlowCreateMirrored]) -> Sequence[Any]:
        item = call.items[0]
        check_completion(item, "completion_task")
        partition = home_for(item.namespace, item.idempotency_key, self._machine.partitions)
        create = ops.CreateMirrored.of(item, id=self._machine.new_id(partition), digest=digest(item))
        return [await self._machine.run(create)]


def check_completion(wanted: FlowCreateMirrored | RuleCreate, field: str) -> None:
    """Raise PenstockError("invalid_request"), naming the field, unless on_task, and only on_task, names a task."""
    if (wanted.completion == "on_task") != (wanted.completion_task is not None):
        raise invalid(field, "on_task needs it, any other completion takes none")

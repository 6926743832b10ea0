"""Children of a durable function: created in the step that journals them, and waited for under the same entry."""

from typing import Any, Generic, TypeVar

import msgspec

from penstock.bus.payloads import raw_of
from penstock.messages.common import readable
from penstock.messages.journal import ChildSpec, Entry, NewEntry
from penstock.worker.durable.errors import ChildFailed, StepCanceled, name_in
from penstock.worker.durable.journal import ENDED
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.run import DurableRun

T = TypeVar("T")


class ChildRun(Generic[T]):
    """A child that runs beside its parent. `execution_id` names it."""

    def __init__(self, run: DurableRun, key: str, execution_id: str, type: Any) -> None:
        self.execution_id = execution_id
        self._run, self._key, self._type = run, key, type

    def result(self) -> Operation[T]:
        """Wait for the child's end. Raises `ChildFailed`."""
        return Operation(self._key, lambda: wait_for(self._run, self._key, None, self._type), bare=True)

    def __repr__(self) -> str:
        return f"ChildRun({self.execution_id!r})"


def entry_of(key: str, kind: str, input: Any, parent_close: Any, options: dict[str, Any]) -> NewEntry:
    """Return the entry that creates a child. Raise `TypeError` for an unknown option, or an input that cannot
    be encoded.
    """
    spec = ChildSpec(kind=kind, raw_input=raw_of(input), parent_close=parent_close, **options)
    return NewEntry(key=key, kind="child", name=name_in(key), status="waiting", child=spec)


async def wait_for(run: DurableRun, key: str, new: NewEntry | None, type: Any) -> Any:
    """Create the child if it is new, wait for its end, and return its result."""
    entry = await run.ask(key)
    if entry is None or entry.status not in ENDED:
        entry = await run.waits.wait(key, new if entry is None else None, entry)
    return _outcome(entry, type)


async def spawn(run: DurableRun, key: str, new: NewEntry, type: Any) -> ChildRun[Any]:
    """Create the child if it is new, and return its handle."""
    entry = await run.ask(key)
    if entry is None:
        with run.running():
            entry = (await run.append(new)).entry
    assert entry is not None and entry.child_id is not None, "a stored child has an id"
    return ChildRun(run, key, entry.child_id, type)


def _outcome(entry: Entry, type: Any) -> Any:
    if entry.status == "canceled":
        raise StepCanceled(entry.key)
    if entry.status == "failed":
        told = entry.error or {}
        category, reason = told.get("category") or "error", told.get("reason") or ""
        raise ChildFailed(entry.key, entry.child_id or "", category, reason)
    return msgspec.json.decode(readable(entry, "raw_result"), type=type)

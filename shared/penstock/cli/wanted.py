"""A filter of executions as command-line options, shared by search and bulk."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter

from penstock.states import ExecutionState


@Parameter(name="*")
@dataclass(frozen=True)
class Wanted:
    """What an execution must be; all that is given must match.

    Parameters
    ----------
    state
        One of its states; may be given several times.
    kind
        A kind, or a prefix such as mail.*
    lane
        The execution's queue.
    tag
        A tag's name, or NAME=VALUE.
    text
        Part of its id, its kind or a tag, whatever the case.
    category
        The category of its last failure.
    group
        A failure group, as `penstock failures` prints it.
    worker
        The worker that holds it now.
    flow
        The id of its flow.
    parent
        The id of the execution that made it.
    namespace
        The namespace that it belongs to.
    min_attempts
        At least so many attempts have begun.
    max_attempts
        At most so many attempts have begun.
    created_from
        Created at this time or later, such as 2030-01-31T09:00.
    created_until
        Created before this time.
    finished_from
        Ended at this time or later.
    finished_until
        Ended before this time.
    """

    state: Annotated[list[ExecutionState], Parameter(negative="")] = field(
        default_factory=list[ExecutionState]
    )
    kind: str | None = None
    lane: str | None = None
    tag: str | None = None
    text: str | None = None
    category: str | None = None
    group: str | None = None
    worker: str | None = None
    flow: str | None = None
    parent: str | None = None
    namespace: str | None = None
    min_attempts: int | None = None
    max_attempts: int | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    finished_from: datetime | None = None
    finished_until: datetime | None = None

    def filter(self) -> dict[str, Any]:
        """Return the fields of the contract's filter that were given. A time without a zone is local."""
        given: dict[str, Any] = {
            "states": self.state or None,
            "kind": self.kind,
            "lane": self.lane,
            "tag": self.tag,
            "text": self.text,
            "failure_category": self.category,
            "failure_group": self.group,
            "worker_id": self.worker,
            "flow_id": self.flow,
            "parent_id": self.parent,
            "namespace": self.namespace,
            "min_attempts": self.min_attempts,
            "max_attempts": self.max_attempts,
            "created_from": _instant(self.created_from),
            "created_until": _instant(self.created_until),
            "finished_from": _instant(self.finished_from),
            "finished_until": _instant(self.finished_until),
        }
        return {name: value for name, value in given.items() if value is not None}


ANYTHING = Wanted()


def _instant(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)

"""The lease-keeper's operations by which a worker ends its lease."""

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.specs import NewExecution
from penstock.messages.common import StateReply
from penstock.messages.leases import Completed, Failed


class Next(Struct, omit_defaults=True):
    """The execution that goes on in place of one that completes. input: JSON text, None for null."""

    execution_id: str
    input: str | None = None


@op("lease_keeper", by="execution_id")
class Complete(Fenced[Completed], kw_only=True):
    """result: JSON text, None for null. children, next: executions that are created in the same step.

    orphans, drift: keys of the journal, for the event.
    """

    result: str | None = None
    children: list[NewExecution] | None = None
    next: Next | None = None
    orphans: list[str] | None = None
    drift: list[str] | None = None


@op("lease_keeper", by="execution_id")
class Fail(Fenced[Failed], kw_only=True):
    reason: str
    category: str
    retryable: bool
    retry_after_ms: int | None = None


@op("lease_keeper", by="execution_id")
class Cancel(Fenced[StateReply], kw_only=True):
    """End the execution as canceled, because its worker gives the work up for good."""

    reason: str | None = None


@op("lease_keeper", by="execution_id")
class Delay(Fenced[StateReply], kw_only=True):
    until: int


@op("lease_keeper", by="execution_id")
class AwaitChildren(Fenced[StateReply], kw_only=True):
    pass


class NamespaceOf(Struct):
    namespace: str


@op("lease_keeper", by="execution_id")
class Namespace(Op[NamespaceOf], kw_only=True):
    """Return the namespace that an execution's children get."""

    execution_id: str

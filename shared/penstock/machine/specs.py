"""Converts a spec of the contract (of an execution, a flow's member or a child) to the state machine's form."""

from typing import Any, Final

import msgspec

from penstock.machine.tokens import limit_of
from penstock.messages.executions import Backoff, ExecutionSpec
from penstock.messages.flows import Member

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.encode


class NewExecution(ExecutionSpec, kw_only=True):
    """An execution that is created along with another record, under an id chosen beforehand."""

    execution_id: str
    limit: str | None = None
    """The execution's limit tokens (penstock.machine.tokens), or None."""


class NewMember(Member, kw_only=True):
    """A member that is created along with its flow, or added to it, under an id chosen beforehand."""

    execution_id: str
    limit: str | None = None


def new_execution(spec: ExecutionSpec, execution_id: str, namespace: str, partitions: int) -> NewExecution:
    """Return the spec in the state machine's form."""
    normalize(spec)
    fields = {name: getattr(spec, name) for name in ExecutionSpec.__struct_fields__}
    return NewExecution(**fields, execution_id=execution_id, limit=limit_of(spec, namespace, partitions))


def new_member(
    member: Member, execution_id: str, namespace: str, partitions: int, traceparent: str | None
) -> NewMember:
    """Return the member in the state machine's form. traceparent: the flow's, if the member has none."""
    normalize(member)
    member.traceparent = member.traceparent or traceparent
    fields = msgspec.structs.asdict(member)
    return NewMember(**fields, execution_id=execution_id, limit=limit_of(member, namespace, partitions))


def normalize(spec: ExecutionSpec) -> None:
    """Sort the spec's capabilities and drop repeats, so that equal sets share a queue; leave off an empty backoff.

    An empty object would come back from Lua as a list.
    """
    if spec.backoff == Backoff():
        spec.backoff = None
    if spec.capabilities:
        spec.capabilities = sorted(set(spec.capabilities))


def merge(text: str | None, handed_on: list[tuple[str, str]]) -> str:
    """Return the input object with each edge's (key, result) set in it; other values are copied byte for byte."""
    merged: dict[str, Any] = _object(text) if text else {}
    for key, result in handed_on:
        merged[key] = msgspec.Raw(result.encode())
    return _encode(merged).decode()

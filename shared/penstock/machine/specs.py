"""From a spec of the contract (of an execution, a member, a child) to what the state machine keeps."""

from typing import Any, Final

import msgspec

from penstock.machine.tokens import limit_of
from penstock.messages.executions import ExecutionSpec
from penstock.messages.flows import Member

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.encode


class NewExecution(ExecutionSpec, kw_only=True):
    """An execution that comes into being with something else, under an id that is settled."""

    execution_id: str
    limit: str | None = None
    """Its tokens (penstock.machine.tokens)."""


class NewMember(Member, kw_only=True):
    """A member of a flow that comes into being with it."""

    execution_id: str
    limit: str | None = None


def new_execution(spec: ExecutionSpec, execution_id: str, namespace: str, partitions: int) -> NewExecution:
    """The spec as the state machine takes it."""
    normalize(spec)
    fields = {name: getattr(spec, name) for name in ExecutionSpec.__struct_fields__}
    return NewExecution(**fields, execution_id=execution_id, limit=limit_of(spec, namespace, partitions))


def new_member(member: Member, execution_id: str, namespace: str, partitions: int) -> NewMember:
    """The member as the state machine takes it."""
    normalize(member)
    fields = msgspec.structs.asdict(member)
    return NewMember(**fields, execution_id=execution_id, limit=limit_of(member, namespace, partitions))


def normalize(spec: ExecutionSpec) -> None:
    """Capabilities are a set: sorted and unique, so that equal sets share a queue."""
    if spec.capabilities:
        spec.capabilities = sorted(set(spec.capabilities))


def merge(text: str | None, handed_on: list[tuple[str, str]]) -> str:
    """The input object with each edge's (key, result) set in it; other values pass byte for byte."""
    merged: dict[str, Any] = _object(text) if text else {}
    for key, result in handed_on:
        merged[key] = msgspec.Raw(result.encode())
    return _encode(merged).decode()

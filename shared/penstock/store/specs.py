"""From a spec of the contract (of an execution, a member, a child) to what the state machine keeps."""

from typing import Any, Final

import msgspec

from penstock.ids import partition_for
from penstock.messages.executions import ExecutionSpec

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.encode


def normalize(spec: ExecutionSpec) -> None:
    """Capabilities are a set: sorted and unique, so that equal sets share a queue."""
    if spec.capabilities:
        spec.capabilities = sorted(set(spec.capabilities))


def limit_of(spec: ExecutionSpec, namespace: str, partitions: int) -> str | None:
    """The tokens that an execution needs room in, as lua/limit/limits.lua names them."""
    tokens = [f"b/{budget_id}" for budget_id in sorted(set(spec.budget_ids))]
    if spec.concurrency_key is not None:
        key = f"{namespace}.{spec.concurrency_key}"
        tokens.append(f"c/{partition_for(key, partitions)}/{spec.concurrency_limit}/{key}")
    if spec.quota_id is not None:
        tokens.append(f"q/{spec.quota_id}")
    return "&".join(tokens) or None


def merge(text: str | None, handed_on: list[list[str]]) -> str:
    """The input object with each edge's (key, result) set in it; other values pass byte for byte."""
    merged: dict[str, Any] = _object(text) if text else {}
    for key, result in handed_on:
        merged[key] = msgspec.Raw(result.encode())
    return _encode(merged).decode()

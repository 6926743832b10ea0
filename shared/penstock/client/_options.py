"""Typed options for creating executions and flows: the fields of `execution.create` and `flow.create`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from penstock import errors
from penstock.bus.payloads import raw_of
from penstock.bus.requester import encode
from penstock.ids import in_words
from penstock.messages.executions import Backoff, ExecutionCreate, ExecutionExecute
from penstock.verbs import VERBS, Verb


class ExecutionOptions(TypedDict, total=False):
    """All fields of `execution.create` except `kind` and `input`."""

    lane: str
    priority: int
    namespace: str
    run_at: int
    max_attempts: int
    backoff: Backoff | Mapping[str, Any]
    retry_on: Sequence[str]
    fail_on: Sequence[str]
    attempt_timeout_ms: int
    deadline_at: int
    capabilities: Sequence[str]
    tags: Mapping[str, str]
    fairness_key: str
    budget_ids: Sequence[str]
    quota_id: str
    concurrency_key: str
    concurrency_limit: int
    parent_id: str
    parent_close: Literal["cancel", "let_run"]
    unique_key: str
    on_conflict: Literal["existing", "reject", "replace"]
    flow_id: str
    max_reclaims: int
    retention_ms: int
    traceparent: str
    idempotency_key: str


class FlowOptions(TypedDict, total=False):
    """The optional fields of `flow.create`, except its graph."""

    requester_origin: str
    current_step: str
    state: Any
    namespace: str
    idempotency_key: str


CancelPolicy = Literal["cancel_all", "cancel_pending", "flow_only"]
StepStatus = Literal["pending", "running", "succeeded", "failed", "cancelled"]


def create_request(kind: str, input: Any, options: Mapping[str, Any]) -> ExecutionCreate:
    """Build an `execution.create` request. Raise `TypeError` for an unknown option."""
    return ExecutionCreate(kind=kind, raw_input=raw_of(input), **options)


def execute_request(kind: str, input: Any, options: Mapping[str, Any], wait_ms: int) -> ExecutionExecute:
    """Build an `execution.execute` request. Raise `TypeError` for an unknown option."""
    return ExecutionExecute(kind=kind, raw_input=raw_of(input), wait_ms=wait_ms, **options)


def request_of(verb: Verb[Any, Any], fields: Mapping[str, Any]) -> Any:
    """Build and check a verb's request from plain values. Raise `invalid_request`, naming the bad field."""
    try:
        return msgspec.json.decode(encode(fields), type=verb.request)
    except (msgspec.MsgspecError, TypeError) as error:
        raise errors.make("invalid_request", f"{verb.name}: {in_words(str(error))}") from None


def verb_named(name: str) -> Verb[Any, Any]:
    """Return the verb with this name. Raise `invalid_request` for an unknown name."""
    try:
        return VERBS[name]
    except KeyError:
        raise errors.make("invalid_request", f"there is no verb {name!r}") from None

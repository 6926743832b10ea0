"""The events of an execution: what each says, and the fields of its data."""

from typing import Any, Final

from penstock.messages.event_kinds import EventTable

EXECUTION: Final[EventTable] = {
    "created": (
        "it was created, in the state `to`",
        {
            "kind": str,
            "lane": str,
            "parent_id?": str,
            "replay_of?": str,
            "forked_from?": str,
            "continues?": str,
            "schedule_id?": str,
            "due_at?": int,
        },
    ),
    "replaced": ("`execution.create` with its `unique_key` gave it another input", {"run_at?": int}),
    "released": (
        "its dependencies are met and it waits for its `run_at`, or its worker gave it back without an outcome",
        {},
    ),
    "ready": ("its time has come, its dependencies are met, or its retry is due", {}),
    "leased": (
        "a worker has the lease, and has not begun",
        {"worker_id": str, "lease_epoch": int, "lease_expires_at": int},
    ),
    "started": (
        "an attempt begins or goes on; with `via` the lease was taken in the same step",
        {
            "attempt_index": int,
            "via?": str,
            "worker_id?": str,
            "lease_epoch?": int,
            "lease_expires_at?": int,
        },
    ),
    "returned": ("the worker was gone when the task arrived: no attempt and no reclaim is used", {}),
    "reclaimed": (
        "the lease was lost (`lease_expired`) or taken away (`lease_revoked`): it is in its queue again",
        {"worker_id": str, "lease_epoch": int, "loop_blocked_ms?": int, "reason?": str},
    ),
    "progress": ("the worker told how far it is", {"pct?": float, "message?": str}),
    "retry_wait": (
        "the attempt failed, and another one follows at `ready_at`",
        {"category": str, "reason": str, "attempt_index": int, "ready_at": int},
    ),
    "suspended": (
        "it waits without a lease, for what `reason` says",
        {
            "suspension_id?": str,
            "waitpoint_id?": str,
            "timeout_at?": int,
            "timeout_behavior?": str,
            "until_at?": int,
            "children_open?": int,
            "budget_id?": str,
            "dimension?": str,
            "reason?": str,
            "key?": str,
            "message?": str,
            "keys?": list[str],
            "n?": int,
            "wake_at?": int,
            "waits?": int,
            "mode?": str,
        },
    ),
    "resumed": (
        "its wait is over, for `reason`",
        {
            "waitpoint_id?": str,
            "signal_id?": str,
            "key?": str,
            "ended_by?": str,
            "child_id?": str,
            "budget_id?": str,
            "was?": str,
            "reason?": str,
        },
    ),
    "escalated": (
        "its suspension timed out, and an operator or its signals must end the wait",
        {"waitpoint_id?": str},
    ),
    "cancel_requested": ("the worker that holds it was asked to stop", {"grace_ms": int}),
    "compensating": (
        "it ends as `to` says once its compensations have run, for which a worker gets it",
        {"to": str},
    ),
    "priority_changed": ("it has another priority", {"priority": int, "before": int}),
    "tags_changed": ("it has other tags", {"tags?": dict[str, str]}),
    "version_recorded": (
        "the first version of code that a worker gave was recorded",
        {"version": str, "pinned?": str},
    ),
    "journal_appended": ("entries were stored in its journal", {"n": int, "keys": list[str]}),
    "journal_filling": (
        "its journal is so full",
        {"pct": int, "entries": int, "bytes": int},
    ),
    "completed": (
        "it has ended with a result",
        {
            "attempt_index": int,
            "continued_by?": str,
            "orphans?": Any,
            "drift?": Any,
        },
    ),
    "failed": (
        "it has ended with a failure, whose category is `reason`",
        {
            "category?": str,
            "reason?": str,
            "attempt_index?": int,
            "worker_id?": str,
            "lease_epoch?": int,
            "loop_blocked_ms?": int,
            "budget_id?": str,
            "dimension?": str,
        },
    ),
    "canceled": ("it was canceled, or skipped by its flow", {}),
}

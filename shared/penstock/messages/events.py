"""Every event of the audit trail: its entity, its name, what it says, and the form of its `data`.

The Lua library emits them, except for `state_rewound`, which is the audit-relay's. A test compares the names with the
library's, and each event that the contract tests cause with its form here.
"""

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType


class EventKind(NamedTuple):
    """One kind of event. `data` is the type of its data; without one, its data is null.

    Data of which no field is there is null too, as `nullable` says.
    """

    entity: str
    event: str
    meaning: str
    data: type[Struct] | None

    @property
    def nullable(self) -> bool:
        return self.data is None or all(field.default is UNSET for field in msgspec.structs.fields(self.data))


class Data(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Data of an event."""


class Omitted(Data):
    """What stands in place of data with which the event would be larger than a message of NATS may be."""

    omitted: str
    bytes: int


_Texts = list[str]
_Amounts = dict[str, int]

# entity -> event -> what it says, and the fields of its data; a name with `?` is of a field that may be absent.
_EVENTS: Final[dict[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "execution": {
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
                "keys?": _Texts,
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
        "journal_appended": ("entries were stored in its journal", {"n": int, "keys": _Texts}),
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
    },
    "flow": {
        "created": ("it was created, in the status `to`", {"kind": str, "owner?": str}),
        "started": ("its members may run", {}),
        "executions_added": ("it has more members", {"members": int, "edges": int, "graph_revision": int}),
        "dependency_added": (
            "it has one more edge",
            {"from": str, "to": str, "data?": str, "graph_revision": int},
        ),
        "join_set": (
            "a member has another join",
            {"member": str, "policy": str, "k?": int, "on_satisfied?": str, "graph_revision": int},
        ),
        "state_updated": ("its state or step was changed", {"current_step?": str, "state": bool}),
        "observed": (
            "a step of a mirrored flow was observed",
            {"run_id": str, "task": str, "from?": str, "to": str, "observed_at": int},
        ),
        "observation_dropped": (
            "an observation changed nothing, for `reason`",
            {"run_id?": str, "task?": str, "status?": str, "observed_at?": int},
        ),
        "waiting": ("it waits, and starts no member", {"wait": dict[str, Any]}),
        "resumed": (
            "its wait is over, for `reason`",
            {"event_id?": str, "topic?": str, "body?": Any},
        ),
        "cancel_requested": ("it can only be cancelled from now on", {}),
        "cancel_dropped": ("a member that was to be stopped does not exist any more", {"execution_id": str}),
        "finished": ("it has ended well", {}),
        "failed": ("it has failed", {"member?": str}),
        "cancelled": ("it was cancelled", {"policy?": str}),
    },
    "waitpoint": {
        "created": ("it takes signals for later", {"execution_id": str, "waitpoint_key": str}),
        "opened": ("an execution, or an entry of its journal, waits for it", {}),
        "signal_buffered": (
            "a signal came before anybody waited",
            {"signal_id": str, "name": str, "source?": str},
        ),
        "signal_recorded": (
            "a signal came while somebody waits",
            {"signal_id": str, "name": str, "source?": str},
        ),
        "signal_ignored": ("a signal came too late", {"signal_id": str, "name": str, "source?": str}),
        "signal_rejected": ("what came was no signal", {}),
        "token_rejected": ("the token of a signal was wrong", {}),
        "satisfied": ("its condition is met", {"signals": int}),
        "closed": ("it was left or closed before its condition was met", {}),
        "expired": ("nobody waited for it in time", {}),
    },
    "schedule": {
        "created": (
            "it was created",
            {
                "at?": int,
                "every_ms?": int,
                "count?": int,
                "cron?": str,
                "timezone?": str,
                "kind": str,
                "next_at": int,
            },
        ),
        "updated": (
            "it was changed",
            {
                "at?": int,
                "every_ms?": int,
                "count?": int,
                "cron?": str,
                "timezone?": str,
                "misfire?": str,
                "kind": str,
                "next_at": int,
                "execution_replaced?": bool,
            },
        ),
        "fired": ("its time came: an execution was created", {"execution_id": str, "due_at": int}),
        "misfired": ("so many times have passed unused", {"skipped": int, "from_at": int, "next_at?": int}),
        "triggered": ("an operator had it create an execution", {"execution_id": str}),
        "paused": ("its times do not happen", {"next_at?": int}),
        "resumed": ("its times happen again", {"next_at?": int}),
        "finished": ("it has no more times", {"fired": int}),
        "deleted": ("it was deleted", {}),
    },
    "bulk": {
        "created": ("it begins", {"action": str, "filter": str}),
        "progress": ("so far it has come", {"looked": int, "done": int, "refused": int}),
        "finished": ("it has looked at all", {"looked": int, "done": int, "refused": int}),
        "stopped": (
            "it was stopped; what it has done stays done",
            {"looked": int, "done": int, "refused": int},
        ),
    },
    "budget": {
        "created": (
            "it was created",
            {"dimensions": dict[str, dict[str, int]], "on_hard?": str, "reset_every_ms?": int},
        ),
        **{
            event: (
                meaning,
                {"execution_id": str, "dimensions": _Amounts, "used": _Amounts, "dimension?": str},
            )
            for event, meaning in {
                "usage": "a task reported usage",
                "soft_breach": "a report passed a soft limit",
                "hard_breach": "a report passed a hard limit",
            }.items()
        },
        "replenished": ("it has more room", {"dimensions": _Amounts}),
        "reset": ("its use is zero again: its `period` is over, or by request", {"used?": _Amounts}),
        "deleted": ("it was deleted", {}),
    },
    "quota": {
        "created": ("it was created", {"max_per_window?": int, "window_ms?": int, "max_concurrent?": int}),
        "deleted": ("it was deleted", {}),
    },
    "lane": {
        "paused": ("it hands nothing out", {}),
        "resumed": ("it hands out again", {}),
        "draining": ("it takes nothing in, and hands out what it has", {}),
    },
    "worker": {
        "registered": (
            "it has come",
            {
                "worker_id": str,
                "lanes": _Texts,
                "capabilities?": _Texts,
                "kinds?": _Texts,
                "version?": str,
            },
        ),
        "active": ("it was lost, and is heard again", {"worker_id": str}),
        "draining": ("it takes no more work", {"worker_id": str}),
        "stopped": ("it has ended", {"worker_id": str}),
        "lost": ("it is not heard any more", {"worker_id": str, "seen_at": int}),
    },
    **{
        entity: {
            "put": ("it was stored", {"revision": int}),
            "dropped": ("messages could not be used; `reason` is the last one's", {"dropped": int}),
            "deleted": ("it was deleted", {}),
        }
        for entity in ("mirror_rule", "trigger")
    },
    "partition": {
        "state_rewound": (
            "its Valkey lost changes that it had acknowledged: those of the events from `from_seq` to `to_seq`",
            {
                "partition": int,
                "events": int,
                "executions": int,
                "from_seq": int,
                "to_seq": int,
                "whole": bool,
            },
        ),
    },
}


def _data(entity: str, event: str, fields: dict[str, Any]) -> type[Struct] | None:
    if not fields:
        return None
    name = "".join(word.title() for word in f"{entity}_{event}_data".split("_"))
    rename = {"from_": "from"}
    required = [(_named(each), type_) for each, type_ in fields.items() if not each.endswith("?")]
    optional = [
        (_named(each[:-1]), type_ | UnsetType, UNSET) for each, type_ in fields.items() if each.endswith("?")
    ]
    return msgspec.defstruct(name, [*required, *optional], bases=(Data,), rename=rename, kw_only=True)


def _named(field: str) -> str:
    return "from_" if field == "from" else field


EVENTS: Final = {
    (entity, event): EventKind(entity, event, meaning, _data(entity, event, fields))
    for entity, events in _EVENTS.items()
    for event, (meaning, fields) in events.items()
}
"""Every kind of event, by entity and name."""

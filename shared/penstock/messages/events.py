"""Every event of the audit trail: its entity, its name, what it says, and the form of its `data`.

The Lua library emits them, except for `state_rewound`, which is the audit-relay's. A test compares the names with the
library's, and each event that the contract tests cause with its form here. Those of an execution are in
execution_events.py.
"""

from typing import Any, Final

from penstock.messages.event_kinds import EventTable, kinds_of
from penstock.messages.execution_events import EXECUTION

_Texts = list[str]
_Amounts = dict[str, int]

_EVENTS: Final[dict[str, EventTable]] = {
    "execution": EXECUTION,
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

EVENTS: Final = kinds_of(_EVENTS)
"""Every kind of event, by entity and name."""

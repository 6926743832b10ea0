"""The states of an execution and of a flow, and the moves between them (contract §2 and §5).

`lua/execution/states.lua` holds the same execution table, because the moves are made there;
`tests/unit/test_states.py` keeps the two equal.
"""

from typing import Final, Literal

ExecutionState = Literal[
    "scheduled", "ready", "leased", "running", "retry_wait", "suspended", "completed", "failed", "canceled"
]

MOVES: Final[dict[str, frozenset[str]]] = {
    "scheduled": frozenset({"ready", "canceled"}),
    "ready": frozenset({"leased", "running", "canceled"}),
    "leased": frozenset({"running", "ready", "canceled"}),
    "running": frozenset({"retry_wait", "suspended", "completed", "failed", "canceled", "ready"}),
    "retry_wait": frozenset({"ready", "failed", "canceled"}),
    "suspended": frozenset({"ready", "failed", "canceled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "canceled": frozenset(),
}

TERMINAL: Final = frozenset(state for state, targets in MOVES.items() if not targets)

REASONS: Final[dict[str, frozenset[str]]] = {
    "scheduled": frozenset({"time", "dependencies"}),
    "ready": frozenset({"quota", "budget", "lane_paused"}),
    "suspended": frozenset({"signal", "delay", "children", "waits", "budget", "operator"}),
}

FlowStatus = Literal["created", "running", "waiting", "finished", "failed", "cancelled"]

FLOW_MOVES: Final[dict[str, frozenset[str]]] = {
    "created": frozenset({"running", "cancelled"}),
    "running": frozenset({"waiting", "finished", "failed", "cancelled"}),
    "waiting": frozenset({"running", "failed", "cancelled"}),
    "finished": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

FLOW_TERMINAL: Final = frozenset(status for status, targets in FLOW_MOVES.items() if not targets)

"""What a command may cost, in commands of the usual kind (some 20 µs): one FCALL is bounded by cost, not by number."""

from collections.abc import Callable, Mapping
from typing import Any, Final

MOST: Final = 64
"""The weight of one FCALL, so that it holds Valkey for a millisecond or two. What weighs as much goes alone."""

_FIXED: Final[Mapping[str, int]] = {
    "list": 12,
    "flow_list": 12,
    "schedule_list": 12,
    "lanes": 12,
    "backlog": 12,
    "history": 24,
    "frame_read": 24,
    "steps": 24,
    "flow_graph": 32,
    "flow_cancel": 32,
    "flow_cancel_step": 32,
    "flow_create": MOST,
    "flow_add": MOST,
    "due": MOST,
}


def _of_executions(args: dict[str, Any]) -> int:
    """As many executions as the command names or asks for.

    Room is left beside it: who asks for work that is just being created asks in the same FCALL.
    """
    return min(MOST * 5 // 8, max(1, len(args["ids"]) if "ids" in args else int(args["max"])))


_BY_ARGUMENTS: Final[Mapping[str, Callable[[dict[str, Any]], int]]] = {
    "hand_out": _of_executions,
    "grant": _of_executions,
    "heads": _of_executions,
}


def weight(op: str, args: Any) -> int:
    """What this command may cost."""
    of = _BY_ARGUMENTS.get(op)
    return of(args) if of else _FIXED.get(op, 1)

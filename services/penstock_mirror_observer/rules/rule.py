"""One compiled mirror rule: it turns a message into an observation, or says why it cannot."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple, get_args

import msgspec

from penstock.errors import invalid
from penstock.messages.common import LAST_INSTANT, Id
from penstock.messages.mirror_rules import MirrorRulePut, RuleCreate, StepStatus
from penstock_mirror_observer.flows import check_completion
from penstock_mirror_observer.rules.sources import MOST_CHARS, Message, Read, compiled

STATUSES: Final = frozenset(get_args(StepStatus))
_encode: Final = msgspec.json.Encoder().encode


class Observed(NamedTuple):
    """The observation that a rule read from a message. result: JSON text. Exactly one of flow_id and key is set."""

    flow_id: str | None
    key: str | None
    run_id: str
    task: str
    status: str
    result: str | None
    observed_at: int | None
    child_session_key: str | None


class Rule:
    """A checked and compiled mirror rule."""

    def __init__(self, put: MirrorRulePut, revision: int = 0) -> None:
        """Compile a rule. Raise PenstockError("invalid_request"), naming the field, if the rule contradicts itself."""
        flow = put.flow
        if (flow.id is None) == (flow.key is None):
            raise invalid("flow", "takes exactly one of id and key")
        if flow.create is not None and flow.key is None:
            raise invalid("flow.create", "goes with key only")
        if flow.create is not None:
            check_completion(flow.create, "flow.create.completion_task")
        self.name = put.name
        self.subject = put.subject
        self.stream = put.stream
        self.revision = revision
        self.create: RuleCreate | None = flow.create
        self._map: dict[str, Any] | None = put.status.map
        self._flow_id = None if flow.id is None else compiled(flow.id, "flow.id")
        self._key = None if flow.key is None else compiled(flow.key, "flow.key")
        self._run_id = compiled(put.run_id, "run_id")
        self._task = compiled(put.task, "task")
        self._status = compiled(put.status, "status")
        self._result = _optional(put.result, "result")
        self._observed_at = _optional(put.observed_at, "observed_at")
        self._child = _optional(put.child_session_key, "child_session_key")

    def read(self, message: Message) -> Observed | str:
        """Return the observation in a message, or the reason why there is none."""
        status = _text(self._status(message))
        mapped = self._map.get(status or "") if self._map is not None else status
        if mapped not in STATUSES:
            return f"status: {status!r} is not known"
        flow_id = key = None
        if self._flow_id is not None:
            flow_id = _text(self._flow_id(message))
            try:
                msgspec.convert(flow_id, Id)
            except msgspec.ValidationError:
                return "flow.id: there is none"
        elif self._key is not None and not (key := _text(self._key(message))):
            return "flow.key: there is none"
        run_id, task = _text(self._run_id(message)), _text(self._task(message))
        if not run_id:
            return "run_id: there is none"
        if not task:
            return "task: there is none"
        found = self._result(message) if self._result else None
        at = self._observed_at(message) if self._observed_at else None
        observed_at = None if at is None else _instant(at)
        if at is not None and observed_at is None:
            return f"observed_at: {str(at)[:64]!r} is no instant"
        child = _text(self._child(message)) if self._child else None
        result = None if found is None else _encode(found).decode()
        return Observed(flow_id, key, run_id, task, str(mapped), result, observed_at, child)


def _optional(source: Any, path: str) -> Read | None:
    return None if source is None else compiled(source, path)


def _text(value: Any) -> str | None:
    """Return a string or an integer as text; None for any other value or a text over MOST_CHARS."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if len(text) <= MOST_CHARS else None


def _instant(value: Any) -> int | None:
    """Return ms since the Unix epoch, from a number, a text with a number, or an RFC 3339 time; None otherwise."""
    readers: tuple[Callable[[Any], float], ...] = (
        float,
        lambda text: datetime.fromisoformat(text).timestamp() * 1000,
    )
    for read in readers:
        try:
            at = int(read(value))
        except (TypeError, ValueError, OverflowError):
            continue
        return at if 0 <= at <= LAST_INSTANT else None
    return None

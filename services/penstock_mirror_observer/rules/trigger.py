"""One compiled trigger: it turns a message into a request, or says why it cannot."""

import re
from typing import Any, Final, cast

import msgspec

from penstock import verbs
from penstock.errors import invalid
from penstock.ids import TRACEPARENT_PATTERN
from penstock.messages.triggers import TriggerExecution, TriggerFlow, TriggerPut
from penstock.verbs import Verb
from penstock_mirror_observer.rules.sources import MOST_CHARS, Message, Read, compiled, expression

_TRACEPARENT: Final = re.compile(TRACEPARENT_PATTERN).match
_PLAIN: Final = ("kind", "lane", "priority", "namespace", "max_attempts", "capabilities")


class Trigger:
    """A checked and compiled trigger."""

    def __init__(self, put: TriggerPut, revision: int = 0) -> None:
        """Compile a trigger. Raise PenstockError("invalid_request"), naming the field, if the trigger is invalid."""
        if (put.execution is None) == (put.flow is None):
            raise invalid("execution", "give exactly one of execution and flow")
        self.name = put.name
        self.subject = put.subject
        self.stream = put.stream
        self.revision = revision
        self._where = None if put.where is None else expression(put.where, "where")
        self.verb: Verb[Any, Any]
        self._sources: dict[str, Read] = {}
        self._tags: dict[str, Read] = {}
        self._fields: dict[str, Any]
        if put.execution is not None:
            self.verb = verbs.EXECUTION_CREATE
            self._fields = self._execution(put.execution)
        else:
            self.verb = verbs.FLOW_CREATE
            self._fields = self._flow(cast(TriggerFlow, put.flow))
        # The fields that do not depend on a message can be validated now.
        sample = {**self._fields, "idempotency_key": "k"}
        try:
            msgspec.convert(sample, self.verb.request)
        except msgspec.ValidationError as error:
            raise invalid(self._field, str(error)) from None

    @property
    def _field(self) -> str:
        return "execution" if self.verb is verbs.EXECUTION_CREATE else "flow"

    def _execution(self, of: TriggerExecution) -> dict[str, Any]:
        for name in ("input", "idempotency_key", "unique_key"):
            if (source := getattr(of, name)) is not None:
                self._sources[name] = compiled(source, f"execution.{name}")
        self._tags = {name: compiled(source, f"execution.tags.{name}") for name, source in of.tags.items()}
        return {name: getattr(of, name) for name in _PLAIN}

    def _flow(self, of: TriggerFlow) -> dict[str, Any]:
        for name in ("state", "idempotency_key"):
            if (source := getattr(of, name)) is not None:
                self._sources[name] = compiled(source, f"flow.{name}")
        plain = ("controller_id", "owner", "goal", "namespace", "members", "edges", "joins")
        return {name: getattr(of, name) for name in plain}

    def read(self, message: Message, message_id: str) -> dict[str, Any] | str:
        """Return the request's fields, or the reason why there are none. message_id: the same at every delivery."""
        if self._where is not None and not self._where(message):
            return "where: it does not hold"
        fields = dict(self._fields)
        for name, read in self._sources.items():
            value = read(message)
            if name.endswith("_key"):
                if not isinstance(value, str | int) or not 1 <= len(str(value)) <= MOST_CHARS:
                    return f"{self._field}.{name}: there is none"
                value = str(value)
            fields[name] = value
        if self._tags:
            found = {name: read(message) for name, read in self._tags.items()}
            fields["tags"] = {
                name: str(value)[:MOST_CHARS] for name, value in found.items() if value is not None
            }
        traceparent = message.headers.get("traceparent", "")
        if _TRACEPARENT(traceparent):  # a malformed one is no reason to drop the message
            fields["traceparent"] = traceparent
        # The message id as key: a redelivered message creates no second execution or flow.
        fields.setdefault("idempotency_key", f"{self.name}:{message_id}"[:MOST_CHARS])
        return fields

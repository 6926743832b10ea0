"""Payloads: fields that hold any JSON value and travel byte for byte (docs/contract.md, "Conventions").

On the wire a payload is JSON inside JSON (`msgspec.Raw`). Inside a service it is a `str` of JSON text, or None
for null, because msgpack and Valkey keep that form. A `Plan` lists the payload fields of a message type.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, Final, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import FieldInfo

from penstock import errors
from penstock.messages.common import NULL, is_payload

MAX_DEPTH: Final = 256

_encode: Final = msgspec.json.Encoder().encode
_check: Final = msgspec.json.Decoder(Raw).decode


def raw_of(value: Any) -> Raw:
    """Encode any value that msgspec supports as JSON; return a `Raw` unchanged.

    Raise `TypeError` or `ValueError`, also for a `Raw` that is not valid JSON: in a batch of requests, one
    invalid payload would make the whole message unreadable.
    """
    if value is None:
        return NULL
    try:
        if not isinstance(value, Raw):
            return Raw(_encode(value))
        if value is not NULL:
            _check(value)
            str(value, "utf-8")  # msgspec does not check the UTF-8 of strings that it skips
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


class Plan(Struct, frozen=True):
    """The payload fields of a message type (`own`: their names in Python and on the wire), and its fields that hold
    messages with payloads (`inner`).
    """

    own: tuple[tuple[str, str], ...]
    inner: tuple[tuple[str, "Plan"], ...]

    def to_text(self, message: Struct, limit: int, path: str = "") -> None:
        """Check the payloads of a decoded request and turn them from `Raw` into text, in place. `limit` is in bytes."""
        for name, wire in self.own:
            value = getattr(message, name)
            if value is not UNSET:
                setattr(message, name, None if value is NULL else _text(value, limit, path + wire))
        for name, plan in self.inner:
            value = getattr(message, name)
            if isinstance(value, list):
                for index, item in enumerate(cast("list[Struct]", value)):
                    plan.to_text(item, limit, f"{path}{name}[{index}].")
            elif value is not None:
                plan.to_text(value, limit, f"{path}{name}.")

    def to_raw(self, result: Any) -> None:
        """Turn the text payloads of a result (a dict or a Struct) back into `Raw`, in place."""
        get: Callable[[str, None], Any]
        put: Callable[[str, Any], None]
        if isinstance(result, dict):
            fields, by_wire = cast("dict[str, Any]", result), True
            get, put = fields.get, fields.__setitem__
        else:
            by_wire, get, put = False, partial(getattr, result), partial(setattr, result)
        for in_python, on_wire in self.own:
            name = on_wire if by_wire else in_python
            value = get(name, None)
            if isinstance(value, str):
                put(name, Raw(value))
        for name, plan in self.inner:
            value = get(name, None)
            if isinstance(value, list):
                for item in cast("list[Any]", value):
                    plan.to_raw(item)
            elif value is not None:
                plan.to_raw(value)


@cache
def plan_of(message_type: Any) -> Plan | None:
    """Return the plan of a message type; None if neither the type nor a message inside it has payloads."""
    return _plan(message_type, ())


def _plan(message_type: Any, above: tuple[Any, ...]) -> Plan | None:
    if message_type in above:  # recursion, as in a condition that holds conditions
        return None
    own: list[FieldInfo] = []
    inner: list[tuple[str, Plan]] = []
    for field in msgspec.structs.fields(message_type):
        if is_payload(field):
            own.append(field)
        for held in _structs_in(field.type):
            plan = _plan(held, (*above, message_type))
            if plan is not None:
                inner.append((field.name, plan))
    if not own and not inner:
        return None
    return Plan(tuple((f.name, f.encode_name) for f in own), tuple(inner))


def _structs_in(annotation: Any) -> Iterator[Any]:
    """Yield the message types inside an annotation such as `list[Member]`, `Join | None` or `Annotated[…]`."""
    held = get_origin(annotation) or annotation
    if isinstance(held, type) and issubclass(held, Struct):
        yield annotation
    elif held is not dict:  # no message has payloads inside a dict with free keys
        for part in get_args(annotation):
            yield from _structs_in(part)


def _text(value: Raw, limit: int, field: str) -> str | None:
    size = len(memoryview(value))
    if size > limit:
        raise errors.make(
            "payload_too_large",
            f"{field} has {size} bytes; the limit is {limit}",
            detail={"field": field, "limit": limit, "size": size},
        )
    try:
        text = str(value, "utf-8")  # msgspec checks a Raw's grammar, but not its UTF-8
    except UnicodeDecodeError:
        raise errors.make("invalid_request", f"{field} is not valid UTF-8", detail={"field": field}) from None
    if size > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(text):
        raise errors.make(
            "invalid_request",
            f"{field} is nested too deeply: keep it within {MAX_DEPTH} levels",
            detail={"field": field},
        )
    return None if text == "null" else text


@cache
def _headroom() -> str:
    """Return opening brackets that use up all but MAX_DEPTH of the levels that msgspec can decode here.

    A payload put inside these brackets fails to decode if it is deeper than about MAX_DEPTH. Other processes
    decode payloads inside larger messages and with other libraries, so this process must not accept its own maximum.
    """
    takes, step = 0, 1 << 17
    while step:
        depth = takes + step
        try:
            msgspec.json.decode(b"[" * depth + b"]" * depth, type=Raw)
            takes = depth
        except RecursionError:
            pass
        step >>= 1
    return "[" * max(takes - MAX_DEPTH, 0)


def _too_deep(text: str) -> bool:
    above = _headroom()
    try:
        msgspec.json.decode(above + text + "]" * len(above), type=Raw)
    except RecursionError:
        return True
    return False

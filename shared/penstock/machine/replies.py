"""From a packed reply to its type.

The types are the contract's own wherever the state machine answers what a verb does. Inside a service their payload
fields hold text (JSON), or None for null, as those of requests do (penstock.bus.payloads makes JSON of them again): so
they are read here into twins of those types, in which these fields are `str | None`.
"""

from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import Struct

_NONE: Final = type(None)


def decoder_of(reply: Any) -> Callable[[bytes], Any]:
    """Reads packed replies of this type. An operation that answers nothing gives None."""
    if reply is None or reply is _NONE:
        return _nothing
    return msgspec.msgpack.Decoder(inside(reply)).decode


def _nothing(_packed: bytes) -> None:
    return None


def inside(annotation: Any) -> Any:
    """The type as it is inside a service: payloads are text."""
    origin: Any = get_origin(annotation)
    held: Any = origin or annotation
    if isinstance(held, type) and issubclass(held, Struct):
        return _twin(annotation)
    if origin is None:
        return annotation
    parts = tuple(inside(part) for part in get_args(annotation))
    if origin in (Union, UnionType):
        return Union[parts]  # noqa: UP007 - the parts are known at run time only
    return annotation if parts == get_args(annotation) else origin[parts]


@cache
def _twin(message: Any) -> Any:
    payloads: tuple[str, ...] = getattr(get_origin(message) or message, "payload_fields", ())
    changed: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(message):
        type_ = str | None if field.name in payloads else inside(field.type)
        if type_ == field.type:
            continue
        if field.name in payloads:
            default: Any = None
        elif field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.field(default_factory=field.default_factory)
        else:
            default = (
                msgspec.field(default=field.default)
                if field.default is not msgspec.NODEFAULT
                else field.default
            )
        changed.append((field.name, type_, default))
    if not changed:
        return message
    return msgspec.defstruct(
        (get_origin(message) or message).__name__,
        [
            (name, type_) if default is msgspec.NODEFAULT else (name, type_, default)
            for name, type_, default in changed
        ],
        bases=(get_origin(message) or message,),
        kw_only=True,
    )

"""Decoders of packed replies.

Many operations reply with a message type of the contract. Inside a service the payload fields of such a message hold
JSON text, or None for null, as in requests (penstock.bus.payloads turns the text back into JSON). So replies are
decoded into twins of the contract's types, in which the payload fields are `str | None`. A service reads these fields,
such as `raw_input`, and never the properties that decode them for users of the SDK, such as `input`.
"""

from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from penstock.messages.common import is_payload

_NONE: Final = type(None)


def decoder_of(reply: Any) -> Callable[[bytes], Any]:
    """Return a decoder of packed replies of this type. For an operation without a reply it returns None."""
    if reply is None or reply is _NONE:
        return _nothing
    return msgspec.msgpack.Decoder(inside(reply)).decode


def _nothing(_packed: bytes) -> None:
    return None


def inside(annotation: Any) -> Any:
    """Return the type's form inside a service, where payload fields are text."""
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
    changed: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(message):
        type_ = str | None if is_payload(field) else inside(field.type)
        if type_ == field.type:
            continue
        if is_payload(field):
            default: Any = msgspec.field(default=None, name=field.encode_name)
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

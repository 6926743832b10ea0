"""The base of the state machine's operations: arguments, type of reply, partition and cost."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Final, Generic, NamedTuple, Self, TypeVar, cast, get_args, get_origin

import msgspec
from msgspec import Struct

from penstock.ids import partition_of
from penstock.machine.replies import decoder_of

R = TypeVar("R")
O = TypeVar("O", bound="type[Op[Any]]")  # noqa: E741 - an op's class
_pack: Final = msgspec.msgpack.Encoder().encode


class Meta(NamedTuple):
    """The facts that all calls of an operation share."""

    name: str
    """The operation's name in lua/ops/<service>/."""
    services: tuple[str, ...]
    """The services whose function (`penstock_<service>`) has the operation."""
    by: str | None
    """The argument whose id names the partition; None: the caller gives the partition."""
    weight: int
    """The most that a call may cost, in units of an ordinary operation (about 20 µs)."""
    prefix: bytes
    """The packed name."""
    decode: Callable[[bytes], Any]
    """Decodes a packed reply into the reply's type."""


class Op(Struct, Generic[R], omit_defaults=True, kw_only=True):
    """An operation, with its arguments; `R` is the type of its reply.

    The Lua code has no defaults for arguments. An argument here is required (always sent), or defaults to None or
    False, which are left out and are nil in Lua. Fields that Lua leaves out of a reply get the reply type's defaults.
    """

    meta: ClassVar[Meta]

    def home(self) -> int:
        """Return the partition that the operation's arguments name. Raise ValueError if they name none."""
        if self.meta.by is None:
            raise ValueError(f"{self.meta.name} names no partition: say where it is to run")
        return partition_of(getattr(self, self.meta.by))

    def cost(self) -> int:
        """Return the most that this call may cost, in ordinary operations."""
        return self.meta.weight

    def packed(self, by: str | None = None) -> bytes:
        """Return the command: msgpack [name, arguments], and the user who asked for it, if one is known."""
        if by is None:
            return b"\x92" + self.meta.prefix + _pack(self)
        return b"\x93" + self.meta.prefix + _pack(self) + _pack(by)

    @classmethod
    def of(cls, request: Struct, **more: Any) -> Self:
        """Make the operation from a request's fields of the same names; arguments in `more` override them."""
        names, values = _shared(cls, type(request))
        return cls(**(dict(zip(names, values(request), strict=True)) | more))


class Fenced(Op[R], Generic[R], kw_only=True):
    """An operation that is refused unless its fence is that of the current lease."""

    execution_id: str
    attempt_index: int
    lease_id: str
    lease_epoch: int


OPS: Final[dict[tuple[str, str], type[Op[Any]]]] = {}
"""All operations, by service and name."""


def op(*services: str, by: str | None = None, weight: int = 1) -> Callable[[O], O]:
    """Declare a class as an operation of these services; its name in snake case. `by`, `weight`: see `Meta`."""

    def declare(cls: O) -> O:
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in cls.__name__)[1:]
        prefix = _pack(name)
        cls.meta = Meta(name, services, by, weight, prefix, decoder_of(_reply_of(cls)))
        for service in services:
            OPS[service, name] = cls
        return cls

    return declare


def _reply_of(cls: type[Op[Any]]) -> Any:
    bases: tuple[Any, ...] = getattr(cls, "__orig_bases__", ())
    for base in bases:
        if issubclass(cast("type", get_origin(base) or object), Op):
            return get_args(base)[0]
    raise TypeError(f"{cls.__name__} does not say what it answers: derive it from Op[…] or Fenced[…]")


@cache
def _shared(
    cls: type[Op[Any]], request: type[Struct]
) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(name for name in cls.__struct_fields__ if name in request.__struct_fields__)
    if len(names) == 1:
        return names, lambda item: (getattr(item, names[0]),)
    return names, cast("Callable[[Any], tuple[Any, ...]]", attrgetter(*names))

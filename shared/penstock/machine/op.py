"""What an operation of the state machine is: its arguments, its reply, where it goes and what it may cost."""

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
    """What is the same for every call of an operation."""

    name: str
    """As lua/ops/<service>/ calls it."""
    services: tuple[str, ...]
    """Whose function has it: `penstock_<service>`."""
    by: str | None
    """The argument whose id names the partition; None: the caller says which."""
    weight: int
    """What it may cost, in operations of the usual kind (some 20 µs)."""
    prefix: bytes
    """A packed command up to its arguments."""
    decode: Callable[[bytes], Any]
    """From a packed reply to the reply's type."""


class Op(Struct, Generic[R], omit_defaults=True, kw_only=True):
    """An operation, with its arguments; `R` is the type of its reply.

    Lua knows no defaults. So an argument has none here (it is always sent), or None or False, which are left off and
    are nil there. In a reply it is the other way round: what Lua leaves out has its default in the reply's type.
    """

    meta: ClassVar[Meta]

    def home(self) -> int:
        """The partition that the operation itself names. Raises ValueError where it names none."""
        if self.meta.by is None:
            raise ValueError(f"{self.meta.name} names no partition: say where it is to run")
        return partition_of(getattr(self, self.meta.by))

    def cost(self) -> int:
        """What this call may cost, in operations of the usual kind."""
        return self.meta.weight

    def packed(self) -> bytes:
        """The command: msgpack [name, arguments]."""
        return self.meta.prefix + _pack(self)

    @classmethod
    def of(cls, request: Struct, **more: Any) -> Self:
        """The operation, with the arguments that a request has under the same names; those in `more` come first."""
        names, values = _shared(cls, type(request))
        return cls(**(dict(zip(names, values(request), strict=True)) | more))


class Fenced(Op[R], Generic[R], kw_only=True):
    """An operation that holds only under the current lease."""

    execution_id: str
    attempt_index: int
    lease_id: str
    lease_epoch: int


OPS: Final[dict[tuple[str, str], type[Op[Any]]]] = {}
"""Every operation, by service and name."""


def op(*services: str, by: str | None = None, weight: int = 1) -> Callable[[O], O]:
    """Declares an operation of these services. Its name is the class's, in snake case; `by`, `weight`: see `Meta`."""

    def declare(cls: O) -> O:
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in cls.__name__)[1:]
        prefix = b"\x92" + _pack(name)
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

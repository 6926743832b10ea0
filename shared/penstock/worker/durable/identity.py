"""Who is who in a journal: entries are found by what the handler calls them, never by their position.

A key is `kind:name`, then `#key` where the caller gave one, else `@2`, `@3` … from the second call of that name on,
in order of call. So calls of different names may start in any order, and a new version may add, remove and reorder
them.
"""

import functools
import inspect
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Protocol, TypeVar

import msgspec

from penstock.worker.durable.errors import StepKeyNeeded

LONGEST_NAME: Final = 200
LONGEST_KEY: Final = 256
_DIGEST_BYTES: Final = 8

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class Caller(Protocol):
    """Whoever makes a call: the handler, one of its branches, or an asyncio task of its own."""

    def may_follow(self, other: Any) -> bool:
        """Return whether this caller's calls come after those of `other` in every run."""
        ...


C = TypeVar("C", bound=Caller)


class Names:
    """The keys that one run of a handler has used."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._last: dict[str, Caller] = {}
        self._keyed: set[str] = set()

    def take(self, kind: str, name: str, key: object, caller: Caller) -> str:
        """Return the journal key of a call. Raise `StepKeyNeeded` if it is not the same in every run.

        Raise `ValueError` for a name or key that cannot be one.
        """
        base = f"{kind}:{checked_name(name)}"
        if key is not None:
            whole = f"{base}#{_checked_key(name, key)}"
            if whole in self._keyed:
                raise StepKeyNeeded(whole, "was called before in this run: give each call a key of its own")
            self._keyed.add(whole)
            return whole
        last = self._last.get(base)
        if last is not None and not caller.may_follow(last):
            raise StepKeyNeeded(
                base,
                "is called by branches that run side by side, in an order that may differ from run to run: "
                "give each call a key, such as key=item.id",
            )
        self._last[base] = caller
        count = self._counts[base] = self._counts.get(base, 0) + 1
        return base if count == 1 else f"{base}@{count}"


def checked_name(name: str) -> str:
    """Return a name, or raise `ValueError` if it would make a key that cannot be read back."""
    if not isinstance(name, str) or not name or len(name) > LONGEST_NAME:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a name is a str of 1 to {LONGEST_NAME} characters, not {name!r}")
    if any(char in "#@" or char < " " or char == "\x7f" for char in name):
        raise ValueError(
            f"the name {name!r} has a '#', a '@' or a control character: use key= for what varies"
        )
    return name


def _checked_key(name: str, key: object) -> str:
    text = str(key)
    if not text or len(text) > LONGEST_KEY or any(char < " " or char == "\x7f" for char in text):
        raise ValueError(
            f"{name}: a key has 1 to {LONGEST_KEY} characters and no control character: {text!r}"
        )
    return text


def code_of(function: Callable[..., Any]) -> str:
    """Return a digest of a function's qualified name, without its module: moving it to another module changes
    nothing.
    """
    while isinstance(function, functools.partial):
        function = function.func
    target: Any = inspect.unwrap(function)
    return _digest(str(getattr(target, "__qualname__", None) or type(target).__qualname__).encode())


def digest_of(function: Callable[..., Any], args: tuple[Any, ...]) -> str | None:
    """Return a digest of a step's arguments. None if they cannot be encoded (a connection, say), or there are none."""
    given: Any = args
    while isinstance(function, functools.partial):
        given = (function.args, sorted(function.keywords.items()), given)
        function = function.func
    if not given:
        return None
    try:
        return _digest(_encode(given))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return None


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()

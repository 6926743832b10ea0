"""Where a rule's values come from: compiled once, when the rule is put."""

from collections.abc import Callable
from typing import Any, Final, cast

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError, ParseError
from msgspec import UNSET

from penstock.errors import invalid
from penstock.messages.mirror_rules import Source

_decode: Final = msgspec.json.Decoder().decode


class Message:
    """A message of another system, as rules read it."""

    __slots__ = ("_data", "_json", "_tokens", "headers", "subject")

    def __init__(self, subject: str, headers: dict[str, str], data: bytes) -> None:
        self.subject = subject
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._data = data
        self._tokens: list[str] | None = None
        self._json: Any = UNSET

    def token(self, number: int) -> str | None:
        """The nth token of its subject, from 1."""
        if self._tokens is None:
            self._tokens = self.subject.split(".")
        return self._tokens[number - 1] if number <= len(self._tokens) else None

    @property
    def json(self) -> Any:
        """Its data, decoded; None where it is no JSON."""
        if self._json is UNSET:
            try:
                self._json = _decode(self._data) if self._data.strip() else None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._json = None
        return self._json


Read = Callable[[Message], Any]


def compiled(source: Source, path: str) -> Read:
    """A function from a message to the value, None where it is not there. Raises PenstockError("invalid_request")."""
    given = [name for name in ("token", "header", "jmespath") if getattr(source, name) is not None]
    if source.const is not UNSET:
        given.append("const")
    if len(given) != 1:
        raise invalid(path, "takes exactly one of token, header, jmespath and const")
    if source.token is not None:
        number = source.token
        return lambda message: message.token(number)
    if source.header is not None:
        name = source.header.lower()
        return lambda message: message.headers.get(name)
    if source.jmespath is not None:
        return expression(source.jmespath, f"{path}.jmespath")
    const = source.const
    return lambda _message: const


def expression(text: str, path: str) -> Read:
    """A function from a message to what a JMESPath expression finds. Raises PenstockError("invalid_request")."""
    try:
        found: Any = cast("Any", jmespath).compile(text)
    except ParseError as error:
        position = cast("Any", error).lex_position
        raise invalid(path, f"does not parse at position {position}: {text!r}") from None
    except JMESPathError as error:
        raise invalid(path, f"does not parse: {error}") from None

    def read(message: Message) -> Any:
        try:
            return found.search(message.json)
        except JMESPathError:  # a function that this value does not fit
            return None

    return read

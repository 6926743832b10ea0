"""The sources of a rule's values (token, header, JMESPath, constant), each compiled once into a function."""

from collections.abc import Callable
from typing import Any, Final, cast

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError, ParseError
from msgspec import UNSET

from penstock.errors import invalid
from penstock.messages.mirror_rules import Source

MOST_CHARS: Final = 256
"""Characters of a value that becomes a key, a name or a tag."""
_decode: Final = msgspec.json.Decoder().decode


class Message:
    """A message of another system, with the views that rules read."""

    __slots__ = ("_data", "_json", "_tokens", "headers", "subject")

    def __init__(self, subject: str, headers: dict[str, str], data: bytes) -> None:
        self.subject = subject
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._data = data
        self._tokens: list[str] | None = None
        self._json: Any = UNSET

    def token(self, number: int) -> str | None:
        """Return the subject's token with this number, counted from 1; None past the end."""
        if self._tokens is None:
            self._tokens = self.subject.split(".")
        return self._tokens[number - 1] if number <= len(self._tokens) else None

    @property
    def json(self) -> Any:
        """The data decoded from JSON; None if the data is empty or no JSON."""
        if self._json is UNSET:
            try:
                self._json = _decode(self._data) if self._data.strip() else None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._json = None
        return self._json


Read = Callable[[Message], Any]


def compiled(source: Source, path: str) -> Read:
    """Return a function that reads the value from a message, None if absent. Raise PenstockError("invalid_request")."""
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
    """Return a function that applies a JMESPath expression to a message. Raise PenstockError("invalid_request")."""
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
        except JMESPathError:  # a JMESPath function got a value of the wrong type
            return None

    return read

"""Decode and check the requests of a verb; encode its results (docs/contract.md, "Conventions")."""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec import Raw, ValidationError

from penstock import errors
from penstock.bus.payloads import plan_of
from penstock.errors import PenstockError
from penstock.ids import in_words
from penstock.verbs import MAX_BATCH, Reply, Req, Verb

Rep = TypeVar("Rep", bound=Reply)

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
# The part of max_payload that is reserved for the headers and for the JSON array around the items.
_ENVELOPE_BYTES: Final = 2048
_MESSAGE_CHARS: Final = 512

_encode: Final = msgspec.json.Encoder().encode
_raws: Final = msgspec.json.Decoder(list[Raw])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FIELD: Final = re.compile(r"(?:unknown|missing required) field `([^`]*)`")
_SURROGATE: Final = re.compile("[\ud800-\udfff]").search
_PATH: Final = re.compile(r" - at `(?:key` in `)?\$([^`]*)`$")


class Codec(Generic[Req, Rep]):
    """Decoder and encoder of one verb. `codec_of(verb)` caches one codec per verb."""

    def __init__(self, verb: Verb[Req, Rep]) -> None:
        self.verb = verb
        self._one = msgspec.json.Decoder(verb.request)
        many: Any = list[verb.request]
        self._many: msgspec.json.Decoder[list[Req]] = msgspec.json.Decoder(many)
        self._takes = plan_of(verb.request)
        self._gives = plan_of(verb.reply)

    def decode(self, body: bytes, max_payload_bytes: int) -> tuple[list[Req | PenstockError], bool]:
        """Return one entry per request, the valid request or its error, and whether the body was a single request."""
        body = body.lstrip()
        if not body.startswith(b"["):
            return [self._request(body or b"{}", max_payload_bytes)], True
        if not self.verb.batch:
            return [errors.make("invalid_request", f"{self.verb.name} takes one request, not an array")], True
        try:
            return self._batch(body, max_payload_bytes), False
        except PenstockError as error:
            return [error], True

    def _batch(self, body: bytes, limit: int) -> list[Req | PenstockError]:
        try:
            requests = self._many.decode(body)
        except _UNREADABLE:
            # At least one item is invalid: decode item by item, so that the valid ones still pass.
            try:
                bodies = _raws.decode(body)
            except _UNREADABLE as error:
                raise (_lone_surrogate(body) or _refusal(error)) from None
            _check_count(len(bodies))
            return [self._request(one, limit) for one in bodies]
        _check_count(len(requests))
        if self._takes is None:
            return cast("list[Req | PenstockError]", requests)
        return [self._checked(request, limit) for request in requests]

    def _request(self, body: bytes | Raw, limit: int) -> Req | PenstockError:
        try:
            request = self._one.decode(body)
        except _UNREADABLE as error:
            return _lone_surrogate(body) or _refusal(error)
        return self._checked(request, limit)

    def _checked(self, request: Req, limit: int) -> Req | PenstockError:
        if self._takes is not None:
            try:
                self._takes.to_text(request, limit)
            except PenstockError as error:
                return error
        return request

    def encode(
        self, results: Sequence[Any], single: bool, max_bytes: int | None = None
    ) -> tuple[bytes, dict[str, str] | None]:
        """Return the body and headers of the reply. `max_bytes` is the connection's max_payload: a result that
        does not fit is replaced by a `payload_too_large` error."""
        if self._gives is not None:
            for result in results:
                if not isinstance(result, PenstockError):
                    self._gives.to_raw(result)
        room = None if max_bytes is None else max_bytes - _ENVELOPE_BYTES
        if single:
            return _single(results[0], room)
        body = _encode([_item(result) for result in results])
        if room is not None and len(body) > room:
            body = _fitted(results, room)
            if len(body) > room:
                return _single(_too_large(len(body), room), None)
        return body, None


@cache
def codec_of(verb: Verb[Req, Rep]) -> Codec[Req, Rep]:
    return Codec(verb)


def decode(
    verb: Verb[Req, Rep], body: bytes, max_payload_bytes: int = MAX_PAYLOAD_BYTES
) -> tuple[list[Req | PenstockError], bool]:
    """Decode a message into requests and errors, and tell whether it was a single request (see `Codec.decode`)."""
    return codec_of(verb).decode(body, max_payload_bytes)


def encode(
    verb: Verb[Any, Any], results: Sequence[Any], single: bool, max_bytes: int | None = None
) -> tuple[bytes, dict[str, str] | None]:
    """Encode results as the body and headers of a reply (see `Codec.encode`)."""
    return codec_of(verb).encode(results, single, max_bytes)


def _single(result: Any, room: int | None) -> tuple[bytes, dict[str, str] | None]:
    error = result if isinstance(result, PenstockError) else None
    body = _encode({"error": error.body()} if error else result)
    if room is not None and len(body) > room:
        error = _too_large(len(body), room)
        body = _encode({"error": error.body()})
    if error is None:
        return body, None
    return body, {
        "Nats-Service-Error-Code": str(error.number),
        "Nats-Service-Error": " ".join(error.message.split())[:_MESSAGE_CHARS],
    }


def _item(result: Any) -> dict[str, Any]:
    return {"error": result.body()} if isinstance(result, PenstockError) else {"ok": result}


def _fitted(results: Sequence[Any], room: int) -> bytes:
    """Encode the batch, keeping the order: each item that does not fit becomes a `payload_too_large` error."""
    items = [_encode(_item(result)) for result in results]
    spare = _encode(_item(_too_large(max(map(len, items)), room)))
    left = room - len(items) * (len(spare) + 1)
    for index, item in enumerate(items):
        left -= len(item) - len(spare)
        if left < 0:
            left += len(item) - len(spare)
            items[index] = _encode(_item(_too_large(len(item), room)))
    return b"[" + b",".join(items) + b"]"


def _too_large(size: int, limit: int) -> PenstockError:
    return errors.make(
        "payload_too_large",
        f"the reply has {size} bytes and NATS carries {limit}: ask for fewer, with a smaller limit or batch",
        detail={"size": size, "limit": limit},
    )


def _check_count(count: int) -> None:
    if count > MAX_BATCH:
        raise errors.make(
            "invalid_request",
            f"a batch holds at most {MAX_BATCH} requests; this one has {count}",
            detail={"limit": MAX_BATCH, "size": count},
        )


def _lone_surrogate(body: bytes | Raw) -> PenstockError | None:
    """Return the error for a string with half of a surrogate pair (RFC 8259, section 8.2); None if there is none.

    For such a string msgspec reports truncated input. Python's json accepts the string, so it can locate it.
    """
    found: list[str] = []

    def look(value: Any, path: str) -> None:
        if isinstance(value, str):
            if _SURROGATE(value):
                found.append(path)
        elif isinstance(value, dict):
            for name, item in cast("dict[str, Any]", value).items():
                look(name, path)
                look(item, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            for index, item in enumerate(cast("list[Any]", value)):
                look(item, f"{path}[{index}]")

    try:
        look(json.loads(bytes(body)), "")
    except (ValueError, RecursionError):
        return None
    if not found:
        return None
    field = found[0].encode("utf-8", "replace").decode()[:_MESSAGE_CHARS]
    message = f"{field or 'the request'} holds half of a UTF-16 surrogate pair: it is no text"
    return errors.make("invalid_request", message, detail={"field": field} if field else None)


def _refusal(error: Exception) -> PenstockError:
    """Make an `invalid_request` error from a decoding error; its detail names the field if one is known."""
    if isinstance(error, RecursionError):
        return errors.make("invalid_request", "the request is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return errors.make("invalid_request", "the request is not valid UTF-8")
    message = in_words(str(error))
    if not isinstance(error, ValidationError):
        return errors.make("invalid_request", message[:_MESSAGE_CHARS])
    field = _FIELD.search(message)
    path = _PATH.search(message)
    named = [path.group(1).lstrip(".")] if path else []
    if field:
        named.append(field.group(1))
    detail = {"field": ".".join(filter(None, named))[:_MESSAGE_CHARS]} if named else None
    return errors.make("invalid_request", message[:_MESSAGE_CHARS], detail=detail)

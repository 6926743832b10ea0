"""Read replies: the results of the requests, an error, or the server's notice that there are no responders."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from penstock import errors
from penstock.verbs import Verb


class _Refusal(msgspec.Struct):
    error: dict[str, Any]


_decode_refusal: Final = msgspec.json.Decoder(_Refusal).decode


@functools.cache
def _decoders(verb: Verb[Any, Any]) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[list[Any]]]:
    """Return the decoder of a single reply, and that of a batch's array of `{"ok": …}` or `{"error": …}`."""
    item = msgspec.defstruct(
        "Item", [("ok", verb.reply | None, None), ("error", dict[str, Any] | None, None)]
    )
    items: Any = list[item]
    return msgspec.json.Decoder(verb.reply), msgspec.json.Decoder(items)


def refusal(msg: Msg) -> errors.PenstockError | None:
    """Return the error that a reply as a whole carries, or None if it carries results."""
    headers = msg.headers
    if not headers or "Nats-Service-Error-Code" not in headers:
        return None
    try:
        return errors.from_body(_decode_refusal(msg.data).error)
    except msgspec.MsgspecError:
        return errors.make("internal", headers.get("Nats-Service-Error"))


def is_no_responders(msg: Msg) -> bool:
    """Return whether this is the server's notice that nobody subscribes to the subject (status 503)."""
    return not msg.data and bool(msg.headers) and msg.headers.get("Status") == "503"


def nobody_answers(verb: Verb[Any, Any], root: str, how: str) -> errors.PenstockError:
    """Make a `timeout` error that names the service to start. `how` begins the message."""
    subject = verb.subject(root)
    return errors.make(
        "timeout",
        f"{how} {subject}: the {verb.service} service answers it; is penstock-{verb.service} running?",
        detail={"subject": subject, "service": verb.service},
    )


def spread(
    verb: Verb[Any, Any], data: bytes, futures: Sequence["asyncio.Future[Any]"], *, array: bool
) -> None:
    """Set each future to its part of the reply. Raise `msgspec.MsgspecError` for a malformed reply."""
    single, batch = _decoders(verb)
    if not array:
        future = futures[0]
        reply = single.decode(data)
        if not future.done():
            future.set_result(reply)
        return
    items = batch.decode(data)
    if len(items) != len(futures):
        raise msgspec.ValidationError(f"{len(items)} items for {len(futures)} requests")
    for future, item in zip(futures, items, strict=True):
        if future.done():
            continue
        if item.error is not None:
            future.set_exception(errors.from_body(item.error))
        elif item.ok is not None:
            future.set_result(item.ok)
        else:
            future.set_exception(errors.make("internal", f"an empty item answers {verb.name}"))

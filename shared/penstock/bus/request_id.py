"""Which request is being handled, for the log: a context variable that costs the hot path one assignment.

The id comes from the caller: the header `Penstock-Request-Id`, else the trace id of a W3C `traceparent`. Without
either it is the reply subject, which names one message of one client. Tasks that a handler starts inherit it.
"""

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Final

HEADER: Final = "Penstock-Request-Id"
SHOWN: Final = 8
"""The most ids that are named: many requests may be merged into one call."""

_ID: Final = re.compile(r"[\x21-\x7e]{1,128}").fullmatch
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?").fullmatch

Origin = tuple[str, Mapping[str, str] | None]
"""A message's reply subject and headers."""

handled: Final[ContextVar[Sequence[Origin]]] = ContextVar("handled", default=())
"""The messages of the call that this task handles."""


def request_id() -> str | None:
    """Return the ids of the requests that this task handles, separated by commas; None outside a request."""
    origins = handled.get()
    ids = [found for origin in origins[:SHOWN] if (found := _id_of(*origin))]
    more = len(origins) - SHOWN
    return ",".join([*ids, f"and {more} more"] if more > 0 else ids) or None


def _id_of(reply: str, headers: Mapping[str, str] | None) -> str:
    # Senders write header names as they like; nats-py keeps them as they came.
    given = {name.lower(): value for name, value in (headers or {}).items()}
    wanted = given.get(HEADER.lower(), "")
    if _ID(wanted):  # a strange one must not forge a log line
        return wanted
    trace = _TRACEPARENT(given.get("traceparent", ""))
    return trace[1] if trace else reply

"""Field types and base classes that all messages share."""

from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct, UnsetType
from msgspec.structs import FieldInfo

from penstock.ids import (
    ID_PATTERN,
    KIND_PATTERN,
    KINDS_PATTERN,
    TOKEN_PATTERN,
    TRACEPARENT_PATTERN,
    UUID_PATTERN,
)

MAX_INT: Final = 2**53
LAST_INSTANT: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, where the calendars of most languages end."""
LONGEST_MS: Final = 100 * 366 * 86_400_000
"""A hundred years. A longer duration is surely a mistake, and adding it to now could leave the calendar."""
NULL: Final = Raw(b"null")
CODED: Final = "penstock.codec"
"""The key under which a payload codec's work stands in a payload (penstock.codecs). Services pass it on as it is."""
SHOWN_CHARS: Final = 300
"""Most characters of a payload in a message's repr."""


def raw(name: str | None = None, default: Raw = NULL) -> Any:
    """Return a field that keeps any JSON value byte for byte. `name`: its name on the wire, if that is another one.

    The default comes from a factory, as JSON Schema cannot show a Raw default.
    """
    return msgspec.field(name=name, default_factory=lambda: default)


def decoded(name: str) -> property:
    """Return a property: the payload in the field `raw_<name>` as plain Python values.

    The payload is decoded at the first access and the value is kept in the instance's `__dict__`, so the class needs
    `dict=True`. The message itself holds the bytes only: changing the value does not change what is sent.
    """
    field = f"raw_{name}"

    def value(message: Any) -> Any:
        kept: dict[str, Any] = message.__dict__
        if name not in kept:
            kept[name] = msgspec.json.decode(readable(message, field))
        return kept[name]

    return property(
        value,
        doc=f"`{field}` as plain Python values, decoded at the first access. Changes stay in this value.",
    )


def readable(message: Any, field: str) -> Raw:
    """Return a payload of a reply. Raise the error that kept the SDK's codec from decoding it, if there is one."""
    errors = message.__dict__.get("unreadable")
    if errors and field in errors:
        raise errors[field]
    return getattr(message, field)


def unreadable(message: Any, field: str, error: Exception) -> None:
    """Keep the error that `readable` raises for this payload."""
    message.__dict__.setdefault("unreadable", {})[field] = error


def is_payload(field: FieldInfo) -> bool:
    """Return whether a message's field is a payload: any JSON value, which is passed on byte for byte."""
    return field.type in (Raw, Raw | UnsetType)


Token = Annotated[str, Meta(pattern=TOKEN_PATTERN, description="a NATS token: A-Z a-z 0-9 _ -, up to 128")]
Kind = Annotated[str, Meta(pattern=KIND_PATTERN, max_length=128, description="tokens joined by dots")]
Id = Annotated[str, Meta(pattern=ID_PATTERN, description="<partition>-<uuid7>")]
Text = Annotated[str, Meta(max_length=4096)]
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=256)]
Instant = Annotated[
    int, Meta(ge=0, le=LAST_INSTANT, description="milliseconds since the Unix epoch, to the year 9999")
]
DurationMs = Annotated[int, Meta(ge=0, le=LONGEST_MS, description="milliseconds, at most a hundred years")]
PositiveMs = Annotated[int, Meta(ge=1, le=LONGEST_MS, description="milliseconds, at most a hundred years")]
WaitMs = Annotated[int, Meta(ge=0, le=60_000, description="milliseconds, at most a minute")]
LeaseTtlMs = Annotated[int, Meta(ge=100, le=86_400_000, description="milliseconds")]
Limit = Annotated[int, Meta(ge=1, le=1000)]
# Cursors of lists sorted by id, and of lists that number their items.
IdCursor = Annotated[str, Meta(pattern=UUID_PATTERN, description="as the last page gave it")]
PlaceCursor = Annotated[str, Meta(pattern=r"^[0-9]{1,15}(?!\n)$", description="as the last page gave it")]
Traceparent = Annotated[
    str,
    Meta(pattern=TRACEPARENT_PATTERN, description="the header `traceparent` of W3C Trace Context"),
]
Priority = Annotated[int, Meta(ge=-128, le=127, description="higher is sooner")]
Tags = Annotated[dict[Token, Annotated[str, Meta(max_length=256)]], Meta(max_length=32)]
KindsItem = Annotated[
    str, Meta(pattern=KINDS_PATTERN, max_length=128, description="a kind, or a prefix such as mail.*")
]
Kinds = Annotated[
    list[KindsItem],
    Meta(min_length=1, max_length=1000, description="what a worker takes; absent: all kinds"),
]
Capability = Annotated[str, Meta(pattern=KIND_PATTERN, max_length=64)]
Capabilities = Annotated[list[Capability], Meta(max_length=32)]


class Message(Struct):
    """A request or a reply. Its repr shows payloads as JSON."""

    def __repr__(self) -> str:
        fields = ", ".join(_shown(name, getattr(self, name)) for name in self.__struct_fields__)
        return f"{type(self).__name__}({fields})"


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, Raw):
        return f"{name}={value!r}"
    text = str(value, "utf-8", "replace")
    return f"{name.removeprefix('raw_')}={text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + '…'}"


class Request(Message, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A request. Unknown fields are refused; fields with their default value are not sent."""


class Reply(Message, kw_only=True):
    """A reply. Unknown fields, which a newer service may add, are ignored."""


T = TypeVar("T")


class Page(Reply, Generic[T], kw_only=True):
    """A page of a list: items, and the cursor of the next page, or None at the end."""

    items: list[T] = msgspec.field(default_factory=list[T])
    cursor: str | None = None


class Fence(Request, kw_only=True):
    """The fence, which proves that the caller still holds the current lease."""

    execution_id: Id
    attempt_index: Annotated[int, Meta(ge=0, le=MAX_INT)]
    lease_id: Token
    lease_epoch: Annotated[int, Meta(ge=0, le=MAX_INT)]


class StateReply(Reply, kw_only=True):
    """The execution's state after the verb."""

    state: str


class Record(Reply, kw_only=True, dict=True):
    """An execution, whole: the fields of `execution.get` (contract §2).

    lease_epoch: of the last lease, 0 before the first one; an attempt may have several leases. lease: the present one.
    journal: entries and bytes of a durable function's journal; version: of the code that began it.
    forked_from, continues, continued_by: executions that belong to it (execution.fork, lease.complete).
    """

    execution_id: str
    namespace: str
    kind: str
    lane: str
    priority: int
    state: str
    reason: str | None = None
    outcome: str | None = None
    raw_input: Raw = raw("input")
    raw_result: Raw = raw("result")
    failure: dict[str, Any] | None = None
    attempt_index: int = 0
    attempt_id: str | None = None
    max_attempts: int = 1
    retry_on: list[str] | None = None
    fail_on: list[str] | None = None
    lease_epoch: int = 0
    reclaims: int = 0
    max_reclaims: int = 10
    lease: dict[str, Any] | None = None
    flow_id: str | None = None
    parent_id: str | None = None
    replay_of: str | None = None
    tags: dict[str, str] = {}
    capabilities: list[str] = []
    progress: dict[str, Any] | None = None
    cancel_requested: bool = False
    created_at: int = 0
    ready_at: int | None = None
    started_at: int | None = None
    updated_at: int = 0
    finished_at: int | None = None
    deadline_at: int | None = None
    traceparent: str | None = None
    version: str | None = None
    journal: dict[str, int] | None = None
    forked_from: str | None = None
    continues: str | None = None
    continued_by: str | None = None
    seq: int = 0

    input = decoded("input")
    result = decoded("result")

"""Waits and wakes: what the signal-router answers."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Raw

from penstock.messages.common import (
    Fence,
    Id,
    Kind,
    Limit,
    PlaceCursor,
    PositiveMs,
    Reply,
    Request,
    Token,
    raw,
)

SignalId = Annotated[str, Meta(min_length=1, max_length=256)]
SignalToken = Annotated[str, Meta(min_length=1, max_length=512)]
Source = Annotated[str, Meta(max_length=256)]

_NAME_OR_PREFIX = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?(?!\n)$"
# A name, or a prefix `review.*`.
NamePattern = Annotated[str, Meta(pattern=_NAME_OR_PREFIX, max_length=128)]


class Condition(Request, kw_only=True):
    """A node: exactly one of a leaf `name`, `any_of`, `all_of`, or `count` with `of`.

    `count` adds up the signals that its own branches match; with `distinct_sources` the sources that they
    came from (signals without a source share one).
    """

    name: NamePattern | None = None
    any_of: Annotated[list["Condition"], Meta(min_length=1, max_length=64)] | None = None
    all_of: Annotated[list["Condition"], Meta(min_length=1, max_length=64)] | None = None
    count: Annotated[int, Meta(ge=1, le=1000)] | None = None
    distinct_sources: bool = False
    of: Annotated[list["Condition"], Meta(min_length=1, max_length=64)] | None = None


class WaitpointCreate(Fence, kw_only=True):
    waitpoint_key: Token
    expires_in_ms: PositiveMs = 86_400_000


class WaitpointCreated(Reply, kw_only=True):
    waitpoint_id: str
    token: str
    expires_at: int


class LeaseSuspend(Fence, kw_only=True):
    reason_code: Token = "signal"
    condition: Condition | None = None
    timeout_ms: PositiveMs | None = None
    timeout_behavior: Literal["fail", "cancel", "resume", "escalate"] = "fail"
    waitpoint_id: Id | None = None
    waitpoint_key: Token | None = None


class Suspended(Reply, kw_only=True, omit_defaults=True):
    """`suspended`, `already_satisfied` with the signals (the lease is kept), or `canceled` where that was
    asked for."""

    outcome: str
    suspension_id: str | None = None
    waitpoint_id: str | None = None
    token: str | None = None
    items: list["Signal"] | None = None


class SignalDeliver(Request, kw_only=True):
    payload_fields: ClassVar[tuple[str, ...]] = ("payload",)

    token: SignalToken
    name: Kind
    execution_id: Id | None = None
    waitpoint_key: Token | None = None
    payload: Raw = raw()
    source: Source | None = None
    signal_id: SignalId | None = None


class Delivered(Reply, kw_only=True):
    """`effect`: resumed, recorded, buffered, ignored or duplicate."""

    effect: str
    signal_id: str


class Signal(Reply, kw_only=True):
    """A signal as a resumed worker reads it."""

    payload_fields: ClassVar[tuple[str, ...]] = ("payload",)

    signal_id: str
    name: str
    payload: Raw = raw()
    source: str | None = None
    at: int


class ResumedBy(Fence, kw_only=True):
    cursor: PlaceCursor | None = None
    limit: Limit = 1000

"""Messages of the signal-router: waitpoints, suspensions and signals."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw

from penstock.messages.common import (
    DurationMs,
    Fence,
    Id,
    IdCursor,
    Kind,
    Limit,
    PlaceCursor,
    PositiveMs,
    Reply,
    Request,
    Text,
    Token,
    decoded,
    raw,
)

SignalId = Annotated[str, Meta(min_length=1, max_length=256)]
SignalToken = Annotated[str, Meta(min_length=1, max_length=512)]
Source = Annotated[str, Meta(max_length=256)]

_NAME_OR_PREFIX = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?(?!\n)$"
# A name, or a prefix `review.*`.
NamePattern = Annotated[str, Meta(pattern=_NAME_OR_PREFIX, max_length=128)]


class Condition(Request, kw_only=True):
    """A node of a condition: exactly one of `name` (a leaf), `any_of`, `all_of`, or `count` with `of`.

    count: how many signals must match the branches in `of`; with `distinct_sources`, from how many sources
    they must come (signals without a source share one).
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
    """outcome: `suspended`; `already_satisfied`, with the signals (the worker keeps the lease); or `canceled`,
    if cancellation was requested."""

    outcome: str
    suspension_id: str | None = None
    waitpoint_id: str | None = None
    token: str | None = None
    items: list["Signal"] | None = None


class SignalDeliver(Request, kw_only=True):
    token: SignalToken
    name: Kind
    execution_id: Id | None = None
    waitpoint_key: Token | None = None
    payload: Raw = raw()
    source: Source | None = None
    signal_id: SignalId | None = None


class Delivered(Reply, kw_only=True):
    """The result of a signal. effect: resumed, recorded, buffered, ignored or duplicate."""

    effect: str
    signal_id: str


class Signal(Reply, kw_only=True, dict=True):
    """A signal, in the form that a resumed worker reads."""

    signal_id: str
    name: str
    raw_payload: Raw = raw("payload")
    source: str | None = None
    at: int

    payload = decoded("payload")


class SignalSend(Request, kw_only=True):
    """Send a signal without a token, as an operator. NATS permissions restrict who may use this subject.

    The signal goes to the waitpoint with this key; without a key, to the waitpoint that the execution waits on, or to
    its only pending one.
    """

    execution_id: Id
    name: Kind
    payload: Raw = raw()
    waitpoint_key: Token | None = None
    reason: Text = ""
    signal_id: SignalId | None = None


class WaitpointGet(Request, kw_only=True):
    waitpoint_id: Id


class WaitpointClose(Request, kw_only=True):
    """Close a pending waitpoint: from then on signals to it are refused."""

    waitpoint_id: Id
    reason: Text = ""


WaitpointStatus = Literal["pending", "active", "closed"]


class WaitpointList(Request, kw_only=True):
    """List waitpoints of one execution or of a namespace, newest first. `status` must match, if given."""

    execution_id: Id | None = None
    namespace: Token = "default"
    status: WaitpointStatus | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class Waitpoint(Reply, kw_only=True):
    """A waitpoint, without its token.

    status: pending (no execution waits yet; signals are buffered), active (its execution is suspended on it) or closed
    (ended). received: number of signals by name; missing: what the condition still needs, in words.
    """

    waitpoint_id: str
    execution_id: str
    waitpoint_key: str
    status: WaitpointStatus
    condition: dict[str, Any] | None = None
    received: dict[str, int] = {}
    missing: list[str] = []
    created_at: int
    expires_at: int | None = None


class SignalList(Request, kw_only=True):
    """List the signals that a waitpoint keeps, in the order of arrival."""

    waitpoint_id: Id
    cursor: PlaceCursor | None = None
    limit: Limit = 100


class KeptSignal(Signal, kw_only=True):
    """A signal as a waitpoint keeps it. satisfied: whether it is among those that satisfied the condition."""

    satisfied: bool


class WaitpointRotateSecret(Request, kw_only=True):
    """Sign tokens with a new key from now on; tokens signed with the old key stay valid for `grace_ms`."""

    grace_ms: DurationMs = 86_400_000


class SecretRotated(Reply, kw_only=True):
    key_id: str
    previous_key_id: str
    previous_valid_until: int


class ResumedBy(Fence, kw_only=True):
    cursor: PlaceCursor | None = None
    limit: Limit = 1000

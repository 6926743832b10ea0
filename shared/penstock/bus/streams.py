"""The definitions of Penstock's five JetStream streams: signals, observations, events, dead letters, audit."""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, SubjectTransform
from nats.js.errors import BadRequestError, Error, NotFoundError, ServerError, ServiceUnavailableError

log: Final = logging.getLogger("penstock.bus")

SIGNALS: Final = "SIGNALS"
OBSERVATIONS: Final = "OBSERVATIONS"
EVENTS_IN: Final = "EVENTS_IN"
DEAD: Final = "DEAD"
AUDIT: Final = "AUDIT"
STREAMS: Final = (SIGNALS, OBSERVATIONS, EVENTS_IN, DEAD, AUDIT)

DEDUP_WINDOW_S: Final = 120.0

# Increase this when a definition changes: an older service then leaves a newer service's streams alone.
_DEFINITION: Final = 5
_DEFINITION_KEY: Final = "penstock-definition"
_BOUND_KEYS: Final = {"max_bytes": "penstock-max-bytes", "max_age": "penstock-max-age"}
"""The stream's metadata tell which bounds the settings gave it last."""
_NAME_IN_USE: Final = 10058
_NO_ROOM: Final = 10047
_PAUSE_S: Final = 0.25
_NOWHERE: Final = 2**62
"""A stream sequence that no stream ever reaches."""
_HEALTHY: Final = ("EOF", "not found", "not permitted")
"""What the answer to deleting such a message contains when the stream's store is in order."""
_ASK_S: Final = 2.0


@dataclass(frozen=True)
class Bounds:
    """How much the streams keep; beyond that the oldest messages go. Ages are in seconds, at least DEDUP_WINDOW_S.

    SIGNALS and OBSERVATIONS have none: what is in them has yet to be applied. An event that no signal-router took
    for `events_age_s` is lost, so that is days, and not the time that Valkey keeps an event (`event_ttl_ms`).
    """

    audit_bytes: int = 2 * 2**30
    audit_age_s: float = 90 * 86_400.0
    dead_bytes: int = 64 * 2**20
    dead_age_s: float = 30 * 86_400.0
    events_age_s: float = 7 * 86_400.0


class NoRoomError(Error):
    """JetStream cannot keep as many bytes as a stream's bound promises; the message says what to do."""


def stream_name(root: str, stream: str) -> str:
    """Return the full name of a stream: `PENSTOCK_SIGNALS` for `SIGNALS` under the root `penstock`."""
    return f"{root.upper()}_{stream}"


def definitions(
    root: str,
    replicas: int = 1,
    bounds: Bounds = Bounds(),
    dedup_window_s: float = DEDUP_WINDOW_S,
) -> list[StreamConfig]:
    """Return the configurations of all streams of a deployment."""

    def stream(name: str, subjects: str, description: str, **more: Any) -> StreamConfig:
        given = {key: str(more[bound]) for bound, key in _BOUND_KEYS.items() if bound in more}
        return StreamConfig(
            name=stream_name(root, name),
            description=f"Penstock: {description}",
            subjects=[f"{root}.{subjects}"],
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=dedup_window_s,
            metadata={_DEFINITION_KEY: str(_DEFINITION), **given},
            **more,
        )

    # A full input stream (at a bound that an operator set) refuses new messages instead of dropping old ones. What its
    # consumer has acknowledged is removed by `penstock.bus.trimming`.
    queue = {
        "retention": RetentionPolicy.LIMITS,
        "discard": DiscardPolicy.NEW,
        "allow_atomic": True,
    }
    audit = f"{root}.audit."
    return [
        stream(SIGNALS, "signal.>", "published signals, until they are applied", **queue),
        stream(OBSERVATIONS, "observation.>", "published observations, until they are applied", **queue),
        stream(
            EVENTS_IN,
            "event.>",
            "published events that flows may wait for",
            max_age=bounds.events_age_s,
            **queue,
        ),
        stream(
            DEAD,
            "dead.>",
            "dead letters: what could not be applied, and why",
            retention=RetentionPolicy.LIMITS,
            allow_atomic=True,
            allow_direct=True,
            max_bytes=bounds.dead_bytes,
            max_age=bounds.dead_age_s,
        ),
        stream(
            AUDIT,
            "audit.*.*.*.*",
            "the audit trail: every change of state, hash-chained",
            retention=RetentionPolicy.LIMITS,
            max_bytes=bounds.audit_bytes,
            max_age=bounds.audit_age_s,
            deny_delete=True,
            deny_purge=True,
            allow_atomic=True,
            allow_direct=True,
            # Stored subjects drop the entity's id, so that the stream has few subjects; live subscribers see the id.
            subject_transform=SubjectTransform(
                audit + "*.*.*.*", audit + "{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}"
            ),
        ),
    ]


async def ensure(
    js: JetStreamContext,
    root: str,
    replicas: int = 1,
    bounds: Bounds = Bounds(),
    *,
    dedup_window_s: float = DEDUP_WINDOW_S,
    timeout: float = 30.0,
) -> None:
    """Create or update every stream as defined here. Several services may do this at the same time.

    Options that the definition leaves open (max_bytes of SIGNALS, say) stay as they are, and so does a bound that an
    operator gave with `nats stream edit`, until its setting changes. While JetStream is still starting, retry for
    `timeout` seconds in all, then raise the last error. Raise NoRoomError if JetStream may not store so much.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    for config in definitions(root, replicas, bounds, dedup_window_s):
        while True:
            try:
                await _ensure(js, config)
                break
            except (ServerError, ServiceUnavailableError, NoRespondersError, TimeoutError) as error:
                if getattr(error, "err_code", None) == _NO_ROOM:
                    raise NoRoomError(
                        f"JetStream has no room for the stream {config.name} of {config.max_bytes} bytes:"
                        " raise max_file_store in nats-server's configuration (its default is 3/4 of the free disk),"
                        " or lower PENSTOCK_AUDIT_MAX_BYTES or PENSTOCK_DEAD_MAX_BYTES"
                    ) from None
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)


async def _ensure(js: JetStreamContext, config: StreamConfig) -> None:
    assert config.name is not None
    try:
        existing = (await js.stream_info(config.name)).config
    except NotFoundError:
        try:
            await js.add_stream(config)
            return
        except BadRequestError as error:
            if error.err_code != _NAME_IN_USE:
                raise
        existing = (await js.stream_info(config.name)).config  # another service has just created the stream
    if _definition(existing) > _DEFINITION:
        return
    changes = {
        name: value
        for name, value in _set_in(config).items()
        if not _equal(existing, name, value)
        and not (name in _BOUND_KEYS and _stays(existing, name, value))
        and name != "retention"  # nats-server changes none: an earlier version's work queue stays one
    }
    if changes:
        bounds = ", ".join(f"{bound}={changes[bound]:g}" for bound in _BOUND_KEYS if bound in changes)
        if bounds:
            log.info("the stream %s gets the bounds of the settings: %s", config.name, bounds)
        await js.update_stream(existing.evolve(**changes))


def _stays(existing: StreamConfig, bound: str, value: float) -> bool:
    """Return whether an operator's bound stays: it does until the setting has another value than the stream last got.

    A stream that tells no such value is from before bounds were settings: then any bound it has stays.
    """
    given = (existing.metadata or {}).get(_BOUND_KEYS[bound])
    return given == str(value) if given is not None else (getattr(existing, bound) or 0) > 0


async def write_error(nats: Client, stream: str) -> str | None:
    """Return why a stream stores no messages any more; None when it does, or when it does not answer.

    nats-server (2.15) keeps the first write error of a stream's store until it is started again, long after its disk
    has room again: each publish stays unanswered, and `$JS.API.STREAM.INFO` shows nothing. Deletes fail with that
    error, so this asks to delete a message that cannot exist. A stream that forbids deletes (AUDIT) does not tell.
    """
    ask = json.dumps({"seq": _NOWHERE, "no_erase": True}).encode()
    try:
        answer = await nats.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", ask, _ASK_S)
        said: str = json.loads(answer.data).get("error", {}).get("description", "")
    except (NatsError, TimeoutError, ValueError):
        return None
    return said if said and not any(word in said for word in _HEALTHY) else None


def _definition(config: StreamConfig) -> int:
    return int((config.metadata or {}).get(_DEFINITION_KEY, 0))


def _set_in(config: StreamConfig) -> dict[str, Any]:
    """Return the options that the definition sets, without those that it leaves to the server or an operator."""
    blank = StreamConfig()
    return {
        name: value
        for name, value in vars(config).items()
        if name != "name" and (value != getattr(blank, name) or name == "discard")
    }


def _equal(existing: StreamConfig, name: str, value: Any) -> bool:
    found = getattr(existing, name)
    if name == "metadata":  # the server adds entries of its own
        return value.items() <= (found or {}).items()
    return found == value

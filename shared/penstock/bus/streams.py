"""The definitions of Penstock's five JetStream streams: signals, observations, events, dead letters, audit."""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
from typing import Any, Final

from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, SubjectTransform
from nats.js.errors import BadRequestError, NotFoundError, ServerError, ServiceUnavailableError

SIGNALS: Final = "SIGNALS"
OBSERVATIONS: Final = "OBSERVATIONS"
EVENTS_IN: Final = "EVENTS_IN"
DEAD: Final = "DEAD"
AUDIT: Final = "AUDIT"
STREAMS: Final = (SIGNALS, OBSERVATIONS, EVENTS_IN, DEAD, AUDIT)

DEDUP_WINDOW_S: Final = 120.0
DEAD_MAX_BYTES: Final = 64 * 1024 * 1024
DEAD_MAX_AGE_S: Final = 30 * 86_400.0
"""Bounds of the DEAD stream; beyond them it drops the oldest. Bounds set with `nats stream edit` are kept."""
_BOUNDS: Final = ("max_bytes", "max_age")

# Increase this when a definition changes: an older service then leaves a newer service's streams alone.
_DEFINITION: Final = 3
_DEFINITION_KEY: Final = "penstock-definition"
_NAME_IN_USE: Final = 10058
_PAUSE_S: Final = 0.25


def stream_name(root: str, stream: str) -> str:
    """Return the full name of a stream: `PENSTOCK_SIGNALS` for `SIGNALS` under the root `penstock`."""
    return f"{root.upper()}_{stream}"


def definitions(root: str, replicas: int = 1, dedup_window_s: float = DEDUP_WINDOW_S) -> list[StreamConfig]:
    """Return the configurations of all streams of a deployment."""

    def stream(name: str, subjects: str, description: str, **more: Any) -> StreamConfig:
        return StreamConfig(
            name=stream_name(root, name),
            description=f"Penstock: {description}",
            subjects=[f"{root}.{subjects}"],
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=dedup_window_s,
            metadata={_DEFINITION_KEY: str(_DEFINITION)},
            **more,
        )

    # A full input stream (at a bound that an operator set) refuses new messages instead of dropping old ones.
    work_queue = {
        "retention": RetentionPolicy.WORK_QUEUE,
        "discard": DiscardPolicy.NEW,
        "allow_atomic": True,
    }
    audit = f"{root}.audit."
    return [
        stream(SIGNALS, "signal.>", "published signals, until they are applied", **work_queue),
        stream(OBSERVATIONS, "observation.>", "published observations, until they are applied", **work_queue),
        stream(EVENTS_IN, "event.>", "published events that flows may wait for", **work_queue),
        stream(
            DEAD,
            "dead.>",
            "dead letters: what could not be applied, and why",
            retention=RetentionPolicy.LIMITS,
            allow_direct=True,
            max_bytes=DEAD_MAX_BYTES,
            max_age=DEAD_MAX_AGE_S,
        ),
        stream(
            AUDIT,
            "audit.*.*.*.*",
            "the audit trail: every change of state, hash-chained",
            retention=RetentionPolicy.LIMITS,
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
    *,
    dedup_window_s: float = DEDUP_WINDOW_S,
    timeout: float = 30.0,
) -> None:
    """Create or update every stream as defined here. Several services may do this at the same time.

    Options that the definition leaves open (an operator's max_bytes, say) stay as they are. While JetStream is
    still starting, retry for `timeout` seconds in all, then raise the last error.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    for config in definitions(root, replicas, dedup_window_s):
        while True:
            try:
                await _ensure(js, config)
                break
            except (ServerError, ServiceUnavailableError, NoRespondersError, TimeoutError):
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
        if not _equal(existing, name, value) and not (name in _BOUNDS and _is_bound(existing, name))
    }
    if changes:
        await js.update_stream(existing.evolve(**changes))


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


def _is_bound(existing: StreamConfig, name: str) -> bool:
    """Return whether the existing stream already has this bound."""
    value = getattr(existing, name)
    return value is not None and value > 0


def _equal(existing: StreamConfig, name: str, value: Any) -> bool:
    found = getattr(existing, name)
    if name == "metadata":  # the server adds entries of its own
        return value.items() <= (found or {}).items()
    return found == value

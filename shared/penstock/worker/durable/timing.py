"""Sleeps and waits for signals."""

import asyncio
import re
from datetime import datetime
from typing import Any, Final, NamedTuple

from penstock.ids import KIND_PATTERN
from penstock.messages.journal import AwaitedEvent, Entry, NewEntry, SignalWait
from penstock.worker._errors import ConditionLike, Duration, milliseconds
from penstock.worker._signals import Signal, condition_of
from penstock.worker.durable.errors import SignalTimeout, StepCanceled, name_in
from penstock.worker.durable.journal import ENDED
from penstock.worker.durable.run import DurableRun


class Missing:
    """The type of `MISSING`: no default was given."""


MISSING: Final = Missing()
_TOPIC: Final = re.compile(KIND_PATTERN)
_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")


class When(NamedTuple):
    """An entry's time in milliseconds: `until` since the Unix epoch, or `delay_ms` from when it is stored."""

    until: int | None = None
    delay_ms: int | None = None


def when(key: str, time: Duration | datetime) -> When:
    """Return the time that a user gave. Raise `ValueError` for a datetime without a time zone."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"{key}: a datetime needs a time zone, such as datetime.UTC")
        return When(until=max(0, round(time.timestamp() * 1000)))
    return When(delay_ms=max(0, milliseconds(time)))


async def sleep(run: DurableRun, key: str, time: When) -> None:
    """Sleep once. A sleep of at most `keep_warm` is spent in memory, and journaled at its end."""
    entry = await run.ask(key)
    if entry is not None and entry.status in ENDED:
        _raise_if_canceled(entry)
        return
    new = NewEntry(
        key=key, kind="sleep", name=name_in(key), status="waiting", until=time.until, delay_ms=time.delay_ms
    )
    if entry is None and new.delay_ms is not None and new.delay_ms <= run.options.keep_warm * 1000:
        with run.running():
            await asyncio.sleep(new.delay_ms / 1000)
            await run.append(NewEntry(key=key, kind="sleep", name=name_in(key), status="done"))
        return
    _raise_if_canceled(await run.waits.wait(key, new if entry is None else None, entry))


def signal_entry(
    made: str,
    name: str,
    key: object,
    condition: ConditionLike,
    waitpoint: str | None,
    timeout: Duration | None,
) -> NewEntry:
    """Return the entry that waits for signals. Without a condition it is one signal called `name`.

    Each wait has a waitpoint of its own, so that waits side by side do not take one another's signals.
    """
    own = _NO_TOKEN.sub("-", name if key is None else f"{name}-{key}")[:128]
    wait = SignalWait(
        waitpoint_key=waitpoint or own, condition=condition_of(name if condition is None else condition)
    )
    delay_ms = None if timeout is None else max(0, milliseconds(timeout))
    return NewEntry(
        key=made, kind="signal", name=name_in(made), status="waiting", signal=wait, delay_ms=delay_ms
    )


def event_entry(
    made: str, topic: str, correlation_id: str, key: object, timeout: Duration | None
) -> NewEntry:
    """Return the entry that waits for a published event. Raise `ValueError` for a topic or id that none can have."""
    if not _TOPIC.fullmatch(topic) or len(topic) > 128:
        raise ValueError(f"{made}: a topic is tokens of A-Z a-z 0-9 _ - joined by dots, not {topic!r}")
    if not 1 <= len(correlation_id) <= 256:
        raise ValueError(f"{made}: a correlation id has 1 to 256 characters, not {len(correlation_id)}")
    own = _NO_TOKEN.sub("-", f"event-{topic}" if key is None else f"event-{topic}-{key}")[:128]
    awaited = AwaitedEvent(topic=topic, correlation_id=correlation_id)
    wait = SignalWait(waitpoint_key=own, event=awaited)
    delay_ms = None if timeout is None else max(0, milliseconds(timeout))
    return NewEntry(
        key=made, kind="event", name=name_in(made), status="waiting", signal=wait, delay_ms=delay_ms
    )


async def wait_signals(run: DurableRun, key: str, new: NewEntry, default: Any) -> Any:
    """Return the signals, or the default if they did not come in time."""
    entry = await run.ask(key)
    if entry is None or entry.status not in ENDED:
        entry = await run.waits.wait(key, new if entry is None else None, entry)
    _raise_if_canceled(entry)
    if entry.signals:
        return [Signal(each) for each in entry.signals]
    if isinstance(default, Missing):
        raise SignalTimeout(key)
    return default


async def wait_signal(run: DurableRun, key: str, new: NewEntry, default: Any) -> Any:
    """Return the signal that ended the wait, or the default if it did not come in time."""
    signals = await wait_signals(run, key, new, default)
    return default if signals is default else signals[-1]


def _raise_if_canceled(entry: Entry) -> None:
    if entry.status == "canceled":
        raise StepCanceled(entry.key)

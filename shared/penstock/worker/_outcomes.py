"""Delivers outcomes to their service in spite of lost messages.

An outcome is sent again with the same fence until a reply comes: a service replies to a repeat as it
did to the first. Once the lease must have expired, the execution's record shows whether it was applied.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.messages.common import Fence, Record, Reply, StateReply
from penstock.messages.executions import ExecutionGet
from penstock.messages.journal import Parked
from penstock.messages.leases import Completed, Failed
from penstock.messages.signals import Suspended
from penstock.verbs import Verb
from penstock.worker._errors import PossiblySucceeded
from penstock.worker._leases import Lease

Rep = TypeVar("Rep", bound=Reply)

ANSWER_S: Final = 5.0
# How long after the lease's end an outcome is still repeated.
MARGIN_S: Final = 5.0
READ_TRIES: Final = 3
FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 2.0


def _failed(record: Record) -> Reply | None:
    if record.state == "failed":
        return Failed(outcome="terminal_failed")
    if record.state == "retry_wait":
        return Failed(
            outcome="retry_scheduled", ready_at=record.ready_at, next_attempt=record.attempt_index + 1
        )
    return None


# By verb: rebuild the reply from the record if the record shows that the outcome was applied, else None.
_APPLIED: Final[dict[str, Callable[[Record], Reply | None]]] = {
    "lease.complete": lambda r: Completed(state=r.state) if r.state == "completed" else None,
    "lease.cancel": lambda r: StateReply(state=r.state) if r.state == "canceled" else None,
    "lease.delay": lambda r: StateReply(state=r.state) if r.reason == "delay" else None,
    "lease.await_children": lambda r: StateReply(state=r.state) if r.reason == "children" else None,
    "lease.fail": _failed,
    "lease.suspend": lambda r: Suspended(outcome="suspended") if r.state == "suspended" else None,
    "lease.park": lambda r: Parked(outcome="suspended") if r.state == "suspended" else None,
}


async def deliver(requester: Requester, lease: Lease, verb: Verb[Any, Rep], request: Fence) -> Rep:
    """Send an outcome until a reply comes, or until the lease is over; then read the execution's record.

    Raises the service's typed refusal, `stale_lease` if the lease expired before the outcome was applied,
    or `PossiblySucceeded`.
    """
    delay = FIRST_DELAY_S
    while True:
        try:
            return await requester.send(verb, request, timeout=ANSWER_S)
        except errors.UnavailableError:
            if time.monotonic() >= lease.expires + MARGIN_S:
                break
        await asyncio.sleep(delay)
        delay = min(delay * 2, LONGEST_DELAY_S)
    return cast(Rep, await _read_fate(requester, lease, verb))


async def _read_fate(requester: Requester, lease: Lease, verb: Verb[Any, Any]) -> Reply:
    message = lease.message
    record = await _read(requester, message.execution_id)
    if record is None:
        raise PossiblySucceeded(message.execution_id, verb.name)
    if record.lease_epoch == message.lease_epoch:  # a later lease of the same attempt has outcomes of its own
        rebuild = _APPLIED.get(verb.name)
        reply = rebuild(record) if rebuild else None
        if reply is not None:
            return reply
    detail = {"state": record.state, "attempt_index": record.attempt_index}
    raise errors.make("stale_lease", f"{verb.name} was not applied: the lease ran out", detail=detail)


async def _read(requester: Requester, execution_id: str) -> Record | None:
    for _ in range(READ_TRIES):
        try:
            request = ExecutionGet(execution_id=execution_id)
            return await requester.call(verbs.EXECUTION_GET, request, timeout=ANSWER_S)
        except errors.UnavailableError:
            await asyncio.sleep(LONGEST_DELAY_S)
        except errors.PenstockError:
            return None
    return None

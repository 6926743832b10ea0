"""The loops that the runtime runs for a service: for its share of requests, the key of its hints, and its streams.

`keep` runs a loop, one of these or of `Service.background`, until it ends or is cancelled.
"""

import asyncio
from typing import Final

from penstock import PenstockError
from penstock.backoff import Backoff
from penstock.bus import streams
from penstock.bus.endpoints import Endpoints
from penstock.bus.seal import Seal
from penstock.machine import Machine
from penstock.runtime.logging import Log
from penstock.runtime.service import Context, Loop, Service

STREAMS_S: Final = 5.0
"""Seconds between two looks at whether the streams that a service consumes still store messages."""
KEY_S: Final = 5.0
"""Least seconds between two reads of the key of hints: forged hints must not each cause one."""


async def keep(loop: Loop, log: Log) -> None:
    """Run a background loop, and restart it with backoff when it fails: a failure must not end its work."""
    backoff = Backoff(0.1, 5.0)
    while True:
        try:
            await loop()
            return
        except Exception as error:
            expected = isinstance(error, PenstockError) and error.retryable
            log.warning("a loop failed; starting it again", exc_info=not expected, error=str(error))
        await asyncio.sleep(backoff.next_s())


async def share(context: Context, service: Service, endpoints: Endpoints, changed: asyncio.Event) -> None:
    """Leave requests and messages to other instances while this one cannot work and they can. The leader alone
    takes the messages of ordered consumers. `changed` is set when the members have changed.
    """
    membership = context.membership
    taking = True
    while True:
        await changed.wait()
        changed.clear()
        for consumer in service.consumers:
            await consumer.share(membership.is_leader() if consumer.in_order else not membership.idle)
        if taking != membership.idle:
            continue
        taking = not membership.idle
        context.log.warning(
            "takes its share again" if taking else "leaves its share to others: Valkey is away"
        )
        await endpoints.share(taking)
        if not taking and service.release is not None:
            service.release()


async def renew_key(machine: Machine, seal: Seal) -> None:
    """Read the key of hints again when one was signed with another: Valkey's may have been lost and made anew."""
    while True:
        await seal.doubted.wait()
        seal.key = await machine.hint_key()
        seal.doubted.clear()
        await asyncio.sleep(KEY_S)


async def watch_streams(context: Context, service: Service) -> None:
    """Watch whether the streams that the service consumes, and that of dead letters, store what is published."""
    root, nats = context.settings.root, context.nats
    names = {streams.stream_name(root, each.stream) for each in service.consumers}
    names.add(streams.stream_name(root, streams.DEAD))
    while True:
        for name in sorted(names):
            error = await streams.write_error(nats, name)
            advice = f"{error}; make room on nats-server's disk, then restart nats-server"
            context.health.set(name, error is None, advice)
        await asyncio.sleep(STREAMS_S)

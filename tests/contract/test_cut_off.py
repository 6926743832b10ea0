"""An instance that loses Valkey but not NATS leaves its partitions to other instances until Valkey is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from penstock.errors import PenstockError
from penstock.runtime.running import Running, start
from penstock_scheduler.service import build
from proxies import Proxy
from running_penstock import RunningPenstock

pytestmark = pytest.mark.one_server


@asynccontextmanager
async def second_scheduler(penstock: RunningPenstock) -> AsyncIterator[tuple[Running, Proxy]]:
    async with Proxy.before(penstock.settings.valkey_url) as proxy:
        settings = msgspec.structs.replace(penstock.settings, valkey_url=proxy.url, instance="second")
        second = await start("scheduler", build, settings)
        try:
            yield second, proxy
        finally:
            proxy.cut = False
            await second.stop()


def owned(running: Running) -> int:
    return len(running.context.membership.owned())


async def settled(penstock: RunningPenstock, shares: dict[Running, Any]) -> None:
    """Wait until each instance owns its share. shares: instance -> number of partitions."""

    async def look() -> bool:
        return all(owned(each) == share for each, share in shares.items())

    await penstock.until(look, bool, "the owners' change")


async def shared(penstock: RunningPenstock, *running: Running) -> None:
    """Wait until each partition has one owner and each instance owns at least one partition."""

    async def look() -> bool:
        shares = [owned(each) for each in running]
        return all(shares) and sum(shares) == penstock.settings.partitions

    await penstock.until(look, bool, "a share for each")


async def test_who_cannot_reach_valkey_leaves_its_share_to_others(nats_url: str, valkey_url: str) -> None:
    async with RunningPenstock.open(nats_url, valkey_url, partitions=16) as penstock:
        first = penstock.running["scheduler"]
        async with second_scheduler(penstock) as (second, proxy):
            await shared(penstock, first, second)
            parked = asyncio.create_task(penstock.take(wait_ms=20_000, worker_id="w2", lanes=["apart"]))
            proxy.sever()
            await settled(penstock, {first: 16, second: 0})
            assert first.context.membership.is_leader() and not second.context.membership.is_leader()
            assert "valkey" in second.health.missing()
            await penstock.until(
                lambda: asyncio.sleep(0, second.endpoints.taking),
                lambda taking: not taking,
                "leaving the queue groups",
            )
            # Requests are still served, and due work is still done.
            for _ in range(40):
                await penstock.create(lane="apart")
            # A worker parked at the instance that was cut off is answered: with a list, or with a retryable error.
            [answer] = await asyncio.gather(parked, return_exceptions=True)
            assert isinstance(answer, list) or (isinstance(answer, PenstockError) and answer.retryable)
            due = await penstock.create(run_at=1, lane="late")
            await penstock.reaches(due, "ready")
            proxy.cut = False
            await shared(penstock, first, second)
            await penstock.until(lambda: asyncio.sleep(0, second.health.ready), bool, "readiness")


async def test_who_is_alone_answers_that_valkey_is_away(nats_url: str, valkey_url: str) -> None:
    async with (
        RunningPenstock.open(nats_url, valkey_url) as penstock,
        second_scheduler(penstock) as (second, proxy),
    ):
        await penstock.running["scheduler"].stop()
        proxy.sever()
        await penstock.until(lambda: asyncio.sleep(0, second.health.missing()), bool, "the loss")
        assert owned(second) == 1
        error = await penstock.refused("execution.create", {"kind": "test.job"})
        assert error.code == "valkey_unavailable" and error.retry_after_ms

"""An instance that loses Valkey but not NATS leaves its partitions to other instances until Valkey is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.errors import PenstockError
from penstock.runtime.running import Running, start
from penstock_scheduler.service import build
from running_penstock import RunningPenstock


class Proxy:
    """A proxy to Valkey that can be cut: open connections break, and new ones are refused."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._target = place.hostname, place.port
        self._open: set[asyncio.StreamWriter] = set()
        self.cut = False

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def sever(self) -> None:
        self.cut = True
        for writer in self._open:
            writer.transport.abort()

    def close(self) -> None:
        self.sever()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, far_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except OSError:
                pass
            finally:
                sink.transport.abort()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        self._open -= {writer, far_writer}


@asynccontextmanager
async def second_scheduler(penstock: RunningPenstock) -> AsyncIterator[tuple[Running, Proxy]]:
    proxy = Proxy(penstock.settings.valkey_url)
    await proxy.start()
    settings = msgspec.structs.replace(penstock.settings, valkey_url=proxy.url, instance="second")
    second = await start("scheduler", build, settings)
    try:
        yield second, proxy
    finally:
        proxy.cut = False
        await second.stop()
        proxy.close()


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

"""A Valkey connection that has ended is never kept: calls that use it fail, and the next call opens a new one."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops.scheduler import Lanes
from penstock.store import Store
from penstock.store.link import AGAIN_S, Link
from penstock.store.wire import Wire
from proxies import SlowProxy
from servers import valkey_server

DEADLINE_S = 60.0


@asynccontextmanager
async def turning_away(word: bytes = b"") -> AsyncIterator[str]:
    """Run a server that sends `word` to every client and closes the connection at once."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word)
        writer.transport.abort() if not word else writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_connection_that_was_closed_at_once_is_not_kept() -> None:
    async with turning_away() as url:
        for _ in range(300):
            link = Link(url)
            try:
                wire = await link.open()
            except OSError:
                continue
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(ConnectionError):
                    await wire.ask("PING")
            assert link.wire is None


async def test_who_writes_to_a_connection_that_has_ended_is_told() -> None:
    ended: list[Wire] = []
    with valkey_server() as url:
        wire = await Wire.connect(url, lambda wire, _error: ended.append(wire))
        assert await wire.ask("PING") == b"PONG"
        wire.close()
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(3):
                with pytest.raises(ConnectionError):
                    await wire.ask("PING")
    assert ended == [wire]
    assert wire.waiting == 0


@pytest.mark.parametrize("word", [b"-ERR max number of clients reached\r\n", b"+hello\r\n", b"what?\r\n"])
async def test_a_reply_that_nobody_asked_for_ends_the_connection(word: bytes) -> None:
    async with turning_away(word) as url:
        ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        wire = await Wire.connect(url, lambda _wire, error: ended.set_result(error))
        async with asyncio.timeout(DEADLINE_S):
            await ended
            with pytest.raises(ConnectionError):
                await wire.ask("PING")


async def test_calls_are_answered_again_once_a_full_server_has_room() -> None:
    with valkey_server() as url:
        machine = await Machine.connect(url, service="scheduler", dev=True)
        await machine.store.execute("CONFIG", "SET", "maxclients", "1")
        late = Machine(Store(url, service="scheduler"))
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(PenstockError) as refusal:
                await late.run(Lanes(limit=1), at=0)
            assert refusal.value.code == "valkey_unavailable"
            await machine.store.execute("CONFIG", "SET", "maxclients", "100")
            while True:
                try:
                    assert (await late.run(Lanes(limit=1), at=0)).items == []
                    break
                except PenstockError as error:
                    assert error.code == "valkey_unavailable"
                    await asyncio.sleep(AGAIN_S)
        await late.close()
        await machine.close()


async def test_a_server_that_answers_slowly_is_waited_for_as_long_as_it_answers() -> None:
    with valkey_server() as url:
        async with SlowProxy.before(url) as proxy:
            machine = await Machine.connect(
                proxy.url, service="scheduler", dev=True, timeout=1.0, partitions=12
            )
            proxy.slow = True
            started = time.monotonic()
            async with asyncio.timeout(DEADLINE_S):
                await machine.everywhere(Lanes(limit=1))
            assert time.monotonic() - started > 1.0  # all replies took longer than any of them may
            machine.store.disconnect()


async def test_a_server_that_says_nothing_any_more_is_given_up() -> None:
    with valkey_server() as url:
        machine = await Machine.connect(url, service="scheduler", dev=True, timeout=0.5)
        about = await machine.store.execute("INFO", "server")
        pid = int(about.split(b"process_id:")[1].split()[0])
        os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(PenstockError) as refusal:
                    await machine.run(Lanes(limit=1), at=0)
            assert refusal.value.code == "valkey_unavailable"
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    assert (await machine.run(Lanes(limit=1), at=0)).items == []
                    break
                except PenstockError:
                    await asyncio.sleep(AGAIN_S)
        machine.store.disconnect()


async def test_ids_follow_valkeys_clock_not_their_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    with valkey_server() as url:
        machines: list[Machine] = []
        for hours in (0, 3, -3):
            here = time.time
            with monkeypatch.context() as patched:
                patched.setattr(time, "time", lambda here=here, hours=hours: here() + hours * 3600)
                patched.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
                machines.append(await Machine.connect(url, service="scheduler", dev=True))
        ids: list[str] = []
        for _ in range(20):
            for machine in machines:
                await machine.ping()  # lets at least a millisecond pass
                ids.append(machine.new_id(0))
        # Each machine knows Valkey's clock to within a round trip.
        times = [int(each[2:10] + each[11:15], 16) for each in ids]
        assert all(later >= sooner - 50 for sooner, later in itertools.pairwise(times))
        assert abs(times[-1] - time.time() * 1000) < 60_000
        for machine in machines:
            await machine.close()

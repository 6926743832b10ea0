"""The store while Valkey has trouble. A scripted fake server answers, so that any rare reply can be produced."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
from msgspec import msgpack

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops.common import Now
from penstock.machine.ops.scheduler import Clock
from penstock.store import Store
from penstock.store.link import AGAIN_S

LOADING = b"-LOADING Valkey is loading the dataset in memory\r\n"
FULL = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
DONE = msgpack.encode({"now": 7})
OK = b"*2\r\n$0\r\n\r\n$%d\r\n%b\r\n" % (len(DONE), DONE)


@asynccontextmanager
async def answering(reply: Callable[[], bytes]) -> AsyncIterator[Machine]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: Any = hiredis.Reader()
        while data := await reader.read(65_536):
            commands.feed(data)
            while commands.gets() is not False:
                writer.write(reply())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    machine = Machine(Store(f"redis://127.0.0.1:{port}", service="scheduler"), partitions=8)
    try:
        yield machine
    finally:
        await machine.close()
        server.close()


async def refusal(machine: Machine) -> str:
    """Make three calls in three partitions (three commands in one pipeline). Return the error that refuses them."""
    answers = await machine.run_many([Clock()] * 3, range(3))
    assert all(
        isinstance(answer, PenstockError) and answer.code == "valkey_unavailable" for answer in answers
    )
    await asyncio.sleep(AGAIN_S * 1.5)
    return str(answers[0])


async def test_a_server_that_loads_its_data_is_away_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = LOADING
    async with answering(lambda: now) as machine:
        for episode in (1, 2):
            now = LOADING
            for _ in range(3):
                assert "Valkey is away: LOADING" in await refusal(machine)
            now = OK
            assert await machine.run(Clock(), at=0) == Now(7)
            said = [(record.levelno, record.message) for record in caplog.records]
            assert len(said) == episode
            assert said[-1][0] == logging.WARNING
            assert said[-1][1].startswith("Valkey is away: LOADING")


async def test_a_full_server_is_told_of_once_in_a_while_and_named_to_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with answering(lambda: FULL) as machine:
        for _ in range(3):
            assert "out of memory" in await refusal(machine)
        error = (await asyncio.gather(machine.run(Clock(), at=0), return_exceptions=True))[0]
    assert isinstance(error, PenstockError)
    assert error.retry_after_ms
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

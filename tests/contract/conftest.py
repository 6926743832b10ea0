"""Every contract test runs with one partition and with four."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import commands
from commands import Cli, Said
from penstock import Client
from running_penstock import RunningPenstock


@pytest.fixture(params=[1, 4], ids=["one partition", "four partitions"])
async def penstock(
    request: pytest.FixtureRequest, nats_url: str, valkey_url: str
) -> AsyncIterator[RunningPenstock]:
    """Run all six services in this process, under their own root."""
    async with RunningPenstock.open(nats_url, valkey_url, partitions=request.param) as house:
        yield house


@pytest.fixture
async def client(penstock: RunningPenstock) -> AsyncIterator[Client]:
    async with await Client.connect(penstock.url, root=penstock.root) as client:
        yield client


@pytest.fixture
def cli(penstock: RunningPenstock) -> Cli:
    """Return a function that runs one command against this test's Penstock."""

    async def run(*arguments: str, stdin: str = "", cwd: Path | None = None) -> Said:
        said = await commands.penstock(*arguments, stdin=stdin, cwd=cwd, **commands.told(penstock))
        assert "Traceback" not in said.err
        return said

    return run

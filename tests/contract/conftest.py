"""More houses: one with three partitions, and each test in both where it must not matter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import commands
from commands import Cli, Said
from house import House


@pytest.fixture
async def wide(nats_url: str, valkey_url: str) -> AsyncIterator[House]:
    """All services over three partitions."""
    async with House.open(nats_url, valkey_url, partitions=3) as house:
        yield house


@pytest.fixture(params=[1, 3], ids=["one", "three"])
async def either(request: pytest.FixtureRequest, nats_url: str, valkey_url: str) -> AsyncIterator[House]:
    """The same test with one partition and with three."""
    async with House.open(nats_url, valkey_url, partitions=request.param) as house:
        yield house


@pytest.fixture
def cli(penstock: House) -> Cli:
    """Runs one command, told where this test's Penstock is."""

    async def run(*arguments: str, stdin: str = "", cwd: Path | None = None) -> Said:
        said = await commands.penstock(*arguments, stdin=stdin, cwd=cwd, **commands.told(penstock))
        assert "Traceback" not in said.err
        return said

    return run

"""Real servers for the whole session, and a Penstock of its own (root, key space, streams) for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

import servers
from house import House


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    with servers.nats_server() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with servers.valkey_server() as url:
        yield url


@pytest.fixture
async def penstock(nats_url: str, valkey_url: str) -> AsyncIterator[House]:
    """All six services, in this process, on the session's servers, under a root of their own."""
    async with House.open(nats_url, valkey_url) as house:
        yield house

"""The pytest fixtures: `pytest_plugins = ["penstock.testing"]` brings them in."""

from collections.abc import AsyncGenerator, Generator

import pytest
import pytest_asyncio

from penstock.testing.inside import Penstock
from penstock.testing.servers import Urls, servers


@pytest.fixture(scope="session")
def penstock_servers() -> Generator[Urls]:
    """A nats-server and a valkey-server, once per session; their URLs."""
    with servers() as urls:
        yield urls


@pytest_asyncio.fixture
async def penstock(penstock_servers: Urls) -> AsyncGenerator[Penstock]:
    """A whole Penstock of the test's own."""
    async with Penstock.open(*penstock_servers) as running:
        yield running

"""The pytest fixtures, loaded by `pytest_plugins = ["penstock.testing"]`."""

from collections.abc import AsyncGenerator, Generator

import pytest
import pytest_asyncio

from penstock.testing.inside import Penstock
from penstock.testing.servers import Urls, servers


@pytest.fixture(scope="session")
def penstock_servers() -> Generator[Urls]:
    """Start a nats-server and a valkey-server once per session, and yield their URLs."""
    with servers() as urls:
        yield urls


@pytest_asyncio.fixture
async def penstock(penstock_servers: Urls) -> AsyncGenerator[Penstock]:
    """Start a complete Penstock for one test, and yield it."""
    async with Penstock.open(*penstock_servers) as running:
        yield running

"""Fixtures for the integration tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
from nats.aio.client import Client

from penstock.bus.connection import connect
from penstock.ids import uuid7
from scripted_services import Services, roots
from servers import nats_server


@pytest.fixture
async def services(nats_url: str) -> AsyncIterator[Services]:
    nats = await connect(nats_url, "services")
    services = Services(nats_url, nats, f"test{next(roots)}")
    await services.start()
    yield services
    await services.stop()
    await nats.close()


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    client = await connect(url, "test")
    yield client
    await client.close()


@pytest.fixture
def root() -> str:
    """Return a new root, so that each test has its own subjects and streams."""
    return "t" + uuid7().replace("-", "")

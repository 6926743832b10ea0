"""Real servers for the whole session, and a Penstock of its own (root, key space, streams) for each test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

import servers
from running_penstock import RunningPenstock

UNDER_BOTH_LOOPS = frozenset(
    {
        "test_bus",
        "test_consumer",
        "test_due",
        "test_endpoints",
        "test_link",
        "test_matching",
        "test_runtime",
        "test_store",
    }
)
"""Modules whose tests run under asyncio's own event loop, which workers use, and under the services' uvloop."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook: the event loops that an item's test runs under."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in UNDER_BOTH_LOOPS:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    with servers.nats_server() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with servers.valkey_server() as url:
        yield url


@pytest.fixture
async def penstock(nats_url: str, valkey_url: str) -> AsyncIterator[RunningPenstock]:
    """All six services, in this process, on the session's servers, under a root of their own."""
    async with RunningPenstock.open(nats_url, valkey_url) as house:
        yield house

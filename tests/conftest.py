"""Fixtures: real servers for the whole session, and for each test its own Penstock (root, key space, streams)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator

import pytest
import uvloop
from nats.js.errors import NotFoundError

import servers
from running_penstock import RunningPenstock
from valkey_cluster import valkey_cluster

UNDER_BOTH_LOOPS = frozenset(
    {
        "test_bus",
        "test_consumer",
        "test_due",
        "test_connection",
        "test_endpoints",
        "test_link",
        "test_matching",
        "test_runtime",
        "test_store",
    }
)
"""Modules whose tests run twice: under asyncio's event loop (as workers do) and under uvloop (as the services do)."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loops that a test runs under (a hook of pytest-asyncio)."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in UNDER_BOTH_LOOPS:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what has no UTF-8 in captured output: pytest-xdist cannot send it from its workers."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    with servers.nats_server() as url:
        yield url


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cluster",
        action="store_true",
        help="run the tests on a Valkey Cluster of three primaries with replicas",
    )
    parser.addoption(
        "--one-partition", action="store_true", help="run all contract tests with one partition too"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--cluster"):
        for item in items:
            if item.get_closest_marker("one_server"):
                item.add_marker(pytest.mark.skip(reason="needs a Valkey that is one server"))


@pytest.fixture(scope="session")
def valkey_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.config.getoption("--cluster"):
        with valkey_cluster() as nodes:
            yield nodes.url
        return
    with servers.valkey_server() as url:
        yield url


@pytest.fixture
async def penstock(nats_url: str, valkey_url: str) -> AsyncIterator[RunningPenstock]:
    """Run all six services in this process, on the session's servers, under their own root."""
    async with RunningPenstock.open(nats_url, valkey_url) as house:
        yield house


@pytest.fixture
async def bucket(penstock: RunningPenstock) -> AsyncIterator[str]:
    """A bucket of the test's own. It is deleted afterwards, if the test has made it."""
    name = f"{penstock.root}-payloads"
    yield name
    with contextlib.suppress(NotFoundError):
        await penstock.js.delete_object_store(name)

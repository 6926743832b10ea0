"""Fixtures: real servers for the whole session, and for each test its own Penstock (root, key space, streams)."""

import asyncio
import contextlib
import warnings
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
    """Escape what has no UTF-8 in a report: pytest-xdist cannot send it from its workers, and ends the whole run."""
    report = yield
    report.sections = [(name, _escaped(text)) for name, text in report.sections]
    if report.failed and (text := str(report.longrepr)) != (escaped := _escaped(text)):
        report.longrepr = escaped
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Escape what has no UTF-8 in a warning, as in a report."""
    text = str(warning_message.message)
    if text != (escaped := _escaped(text)):
        warning_message.message = Warning(escaped)


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


_internal_errors: list[str] = []


def pytest_internalerror(excrepr: object) -> None:
    _internal_errors.append(str(excrepr))


def pytest_unconfigure() -> None:
    """Tell once more, at the end, what ended the run: the error of a pytest-xdist worker is followed by long others."""
    if _internal_errors:
        print("The first internal error ended so:", *_internal_errors[0].splitlines()[-20:], sep="\n")


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

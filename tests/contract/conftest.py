"""Every contract test runs with four partitions, where the partition of a thing can matter also with one, and its audit
events have the form that is documented.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.errors import Error as NatsError

import commands
from commands import Cli, Said
from penstock import Client
from penstock.bus.streams import AUDIT, stream_name
from penstock.messages.events import EVENTS
from penstock.refusals import ANY, errors_of
from penstock.runtime.metrics import Metrics
from penstock.verbs import VERBS, Verb
from running_penstock import RunningPenstock

PARTITIONS = {"one partition": 1, "four partitions": 4}
MATTERS = frozenset(
    f"test_{name}"
    for name in (
        *("budgets", "cancel", "execution_lists", "executions", "flows", "joins", "kinds", "lanes"),
        *("leases", "limits", "races", "search", "work"),
    )
)
"""Modules whose tests run with one partition too. With `--one-partition` those of all others do."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "penstock" in metafunc.fixturenames:
        both = metafunc.definition.path.stem in MATTERS
        names = list(PARTITIONS)[0 if both or metafunc.config.getoption("--one-partition") else 1 :]
        counts = [PARTITIONS[name] for name in names]
        metafunc.parametrize("penstock", counts, indirect=True, ids=names)


@pytest.fixture(autouse=True)
def _errors_are_declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare each error that a service of this process answers with those that its verb is said to answer."""
    seen: set[tuple[str, str]] = set()
    count = Metrics.request

    def counted(self: Metrics, verb: Verb[Any, Any], items: int, codes: Sequence[str], s: float) -> None:
        seen.update((verb.name, code) for code in codes)
        count(self, verb, items, codes, s)

    monkeypatch.setattr(Metrics, "request", counted)
    yield
    undeclared = {
        (verb, code) for verb, code in seen if code not in ANY and code not in errors_of(VERBS[verb])
    }
    assert not undeclared, "penstock/refusals.py does not name what was answered"


@pytest.fixture
async def penstock(
    request: pytest.FixtureRequest, nats_url: str, valkey_url: str
) -> AsyncIterator[RunningPenstock]:
    """Run all six services in this process, under their own root."""
    async with RunningPenstock.open(nats_url, valkey_url, partitions=request.param) as house:
        yield house
        await _events_are_described(house)


async def _events_are_described(house: RunningPenstock) -> None:
    """Compare the last event of each kind that the test has caused with its description."""
    stream = stream_name(house.root, AUDIT)
    try:
        subjects = (
            await house.js.stream_info(stream, subjects_filter=f"{house.root}.audit.>")
        ).state.subjects
        last = [await house.js.get_last_msg(stream, subject, direct=True) for subject in subjects or ()]
    except (NatsError, TimeoutError):
        return  # the test has taken away what the events are in
    for message in last:
        event = msgspec.json.decode(message.data or b"{}")
        described = EVENTS.get((event["entity"], event["event"]))
        assert described is not None, f"messages/events.py has no {event['entity']} {event['event']}"
        try:
            if event["data"] is not None or not described.nullable:
                msgspec.convert(event["data"], described.data)
        except msgspec.ValidationError as error:
            raise AssertionError(f"messages/events.py is wrong: {error}; {event}") from None


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

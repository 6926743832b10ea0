"""Keys of journal entries, the local journal, versions and retries: pure logic of durable functions."""

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest

from penstock import Retries, StepKeyNeeded
from penstock.messages.journal import Entry, JournalOpened
from penstock.worker.durable import versions
from penstock.worker.durable.branches import Branches, Strand
from penstock.worker.durable.identity import Names, code_of, digest_of
from penstock.worker.durable.journal import LocalJournal
from penstock.worker.durable.steps import return_type


def root() -> Strand:
    return Strand(Branches().root, None)


def test_keys_are_names_with_their_key_or_occurrence() -> None:
    names, caller = Names(), root()
    assert names.take("step", "pack", None, caller) == "step:pack"
    assert names.take("step", "pack", None, caller) == "step:pack@2"
    assert names.take("step", "pack", 7, caller) == "step:pack#7"
    assert names.take("step", "pack", "a@2#b", caller) == "step:pack#a@2#b"
    assert names.take("sleep", "pack", None, caller) == "sleep:pack"
    with pytest.raises(StepKeyNeeded, match="step:pack#7 was called before"):
        names.take("step", "pack", "7", caller)


@pytest.mark.parametrize("name", ["", "a#b", "a@2", "a\nb", "x" * 201, 7])
def test_names_that_would_make_wrong_keys_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        Names().take("step", name, None, root())


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 257])
def test_keys_that_cannot_be_stored_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        Names().take("step", "pack", key, root())


async def test_asyncio_tasks_side_by_side_need_keys() -> None:
    branches, names = Branches(), Names()
    branches.root.task = asyncio.current_task()

    async def call(key: object = None) -> str:
        return names.take("step", "pack", key, branches.caller())

    assert await call() == "step:pack"
    # One that was started by the handler comes after what the handler has called before.
    assert await asyncio.create_task(call()) == "step:pack@2"
    # The handler has awaited its end, so it comes after it.
    assert await call() == "step:pack@3"
    first = asyncio.create_task(call())
    second = asyncio.create_task(call())
    assert await first == "step:pack@4"
    with pytest.raises(StepKeyNeeded, match="give each call a key"):
        await second
    assert await asyncio.gather(call("a"), call("b")) == ["step:pack#a", "step:pack#b"]


def test_the_digest_of_code_follows_the_name_and_that_of_arguments_their_values() -> None:
    def charge(cents: int) -> None: ...

    def refund(cents: int) -> None: ...

    assert code_of(charge) == code_of(partial(charge, 5)) != code_of(refund)
    assert digest_of(charge, (5,)) == digest_of(refund, (5,)) != digest_of(charge, (6,))
    assert digest_of(partial(charge, cents=5), ()) != digest_of(partial(charge, cents=6), ())
    assert digest_of(charge, ({"b": 1, "a": 2},)) == digest_of(charge, ({"a": 2, "b": 1},))
    assert digest_of(charge, ()) is None
    assert digest_of(charge, (object(),)) is None


def test_results_come_back_as_what_the_function_says_it_returns() -> None:
    class Receipt(msgspec.Struct):
        cents: int

    async def typed() -> list[int]:
        return []

    def untyped():
        return 1

    assert return_type(typed) == list[int]
    assert return_type(partial(typed)) == list[int]
    assert return_type(untyped) is Any
    assert return_type(str) is Any


def entry(n: int, key: str, **fields: Any) -> Entry:
    return Entry(n=n, key=key, kind=key.partition(":")[0], status="done", **fields)


def test_the_local_journal_knows_what_was_asked_for() -> None:
    items = [entry(1, "step:a"), entry(2, "state:s"), entry(3, "step:b")]
    journal = LocalJournal(JournalOpened(version="2", items=items), version="3")
    assert journal.version == "2"
    assert not journal.at_frontier
    assert journal.ask("step:a") is items[0]
    assert journal.ask("step:new") is None
    assert journal.orphans() == ["step:b"]
    assert journal.ask("step:b") is items[2]
    assert journal.at_frontier and journal.orphans() == []  # state is asked for by nobody


def test_a_new_journal_is_of_this_code() -> None:
    journal = LocalJournal(None, version="3")
    assert journal.version == "3" and journal.at_frontier


@pytest.mark.parametrize(
    ("began", "wanted", "answer"),
    [("3", "3", True), ("10", "9", True), ("2", "3", False), ("3.1", "3", True), (None, "1", False)],
)
def test_versions_are_compared_as_numbers(began: str | None, wanted: str, answer: bool) -> None:
    assert versions.at_least(began, wanted) is answer


def test_versions_that_are_accepted() -> None:
    assert versions.accepted("3", None) == []
    assert versions.accepted("3", ">=2") == ["2", "3"]
    assert versions.accepted("b", ["a"]) == ["a", "b"]
    for version, accepts in [(None, ">=2"), ("x", ">=2"), ("3", "2 or 3"), ("1", ">=2"), ("3", ["a b"])]:
        with pytest.raises(ValueError, match=r"version|accepts"):
            versions.accepted(version, accepts)
    with pytest.raises(ValueError, match="cannot be compared"):
        versions.at_least("3", "three")


def test_retries_wait_longer_each_time_up_to_their_longest() -> None:
    assert [Retries(9).delay_ms(n) for n in (1, 2, 3, 20, 100_000)] == [1000, 2000, 4000, 300_000, 300_000]
    assert Retries(3, backoff=1.5).delay_ms(7) == 1500
    jitter = Retries(backoff={"kind": "fixed", "delay_ms": 1000, "jitter": 0.5})
    assert all(500 <= jitter.delay_ms(1) <= 1000 for _ in range(100))
    with pytest.raises(ValueError, match="at least 1"):
        Retries(0)
    with pytest.raises(msgspec.ValidationError):
        Retries(backoff={"delay": 1})

"""What a signal-router remembers of refused signals: a little, for a while."""

import pytest

from penstock_signal_router import refusals
from penstock_signal_router.refusals import Refusals


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time that the module sees."""
    time = [1000.0]
    monkeypatch.setattr(refusals.time, "monotonic", lambda: time[0])
    return time


def test_ten_refusals_of_a_waitpoint_in_ten_seconds_are_recorded(now: list[float]) -> None:
    kept = Refusals()
    assert [kept.is_recorded("a") for _ in range(30)] == [True] * 10 + [False] * 20
    assert kept.is_recorded("b")
    now[0] += 9.9
    assert not kept.is_recorded("a")
    now[0] += 0.2
    assert [kept.is_recorded("a") for _ in range(11)] == [True] * 10 + [False]
    assert kept.seen == 43


def test_a_missing_waitpoint_is_looked_for_again_later(now: list[float]) -> None:
    kept = Refusals()
    assert not kept.is_missing("a")
    kept.missed("a")
    now[0] += 9.9
    assert kept.is_missing("a") and not kept.is_missing("b")
    now[0] += 0.2
    assert not kept.is_missing("a")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "REMEMBERED", 100)
    kept = Refusals()
    for n in range(1000):
        kept.missed(str(n))
        kept.is_recorded(str(n))
    assert len(kept._missing) == len(kept._counts) == 100
    assert kept.is_missing("999") and not kept.is_missing("1")

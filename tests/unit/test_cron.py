"""The due times of schedules: cron with time zones and daylight saving, catching up and skipping."""

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from penstock.errors import PenstockError
from penstock_scheduler.schedules.timetable import SLICE, Rule, following, resumed, step

MINUTE = 60_000
HOUR = 60 * MINUTE
NEW_YORK = "America/New_York"


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    time = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(time.timestamp() * 1000)


def local(times: list[int], zone: str) -> list[str]:
    return [datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).isoformat() for ms in times]


def series(cron: str, start: int, count: int, zone: str = "UTC") -> list[int]:
    times: list[int] = []
    now: int | None = start
    for _ in range(count):
        assert now is not None
        now = following(Rule(cron=cron, timezone=zone), now)
        assert now is not None
        times.append(now)
    return times


class TestCron:
    @pytest.mark.parametrize(
        ("cron", "after", "expected"),
        [
            ("*/5 * * * *", "2026-01-01T00:00:00", "2026-01-01T00:05:00"),
            ("*/5 * * * *", "2026-01-01T00:04:59.999", "2026-01-01T00:05:00"),
            ("0 9 * * MON-FRI", "2026-01-02T09:00:00", "2026-01-05T09:00:00"),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 L * *", "2026-02-01T00:00:00", "2026-02-28T00:00:00"),
            ("*/10 * * * * *", "2026-01-01T00:00:01", "2026-01-01T00:00:10"),
        ],
    )
    def test_the_next_time(self, cron: str, after: str, expected: str) -> None:
        assert following(Rule(cron=cron), at(after)) == at(expected)

    @pytest.mark.parametrize(
        "cron",
        ["", "* * * *", "61 * * * *", "0 0 31 2 *", "0 0 30 2 *", "a b c d e", "0 0 31 4,6 *", "* " * 7],
    )
    def test_what_is_no_cron_or_never_comes_is_refused(self, cron: str) -> None:
        with pytest.raises(PenstockError) as caught:
            following(Rule(cron=cron), at("2026-01-01T00:00:00"))
        assert caught.value.code == "invalid_request" and caught.value.detail == {"field": "cron"}

    @pytest.mark.parametrize(
        "name", ["Mars/Olympus", "", "../../etc/passwd", "/etc/passwd", "America", "utc\0"]
    )
    def test_an_unknown_time_zone_is_refused(self, name: str) -> None:
        with pytest.raises(PenstockError) as caught:
            following(Rule(cron="* * * * *", timezone=name), 0)
        assert caught.value.code == "invalid_request" and caught.value.detail == {"field": "timezone"}


class TestDaylightSaving:
    """In New York the clocks go from 02:00 to 03:00 on 2026-03-08, and from 02:00 to 01:00 on 2026-11-01."""

    def test_a_time_that_the_clocks_skip_comes_once_right_after(self) -> None:
        times = series("30 2 * * *", at("2026-03-07T12:00:00", NEW_YORK), 2, NEW_YORK)
        assert local(times, NEW_YORK) == ["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]
        # Two local times that fall on the same instant are one due time.
        times = series("0,30 2 * * *", at("2026-03-07T12:00:00", NEW_YORK), 2, NEW_YORK)
        assert local(times, NEW_YORK) == ["2026-03-08T03:00:00-04:00", "2026-03-09T02:00:00-04:00"]

    def test_a_time_that_comes_twice_counts_once(self) -> None:
        times = series("30 1 * * *", at("2026-10-31T12:00:00", NEW_YORK), 2, NEW_YORK)
        assert local(times, NEW_YORK) == ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]
        # Starting between the first and the second 01:30.
        again = series("30 1 * * *", at("2026-11-01T01:15:00", NEW_YORK, fold=1), 1, NEW_YORK)
        assert local(again, NEW_YORK) == ["2026-11-02T01:30:00-05:00"]

    def test_hourly_ones_go_by_elapsed_time(self) -> None:
        for start in ("2026-03-08T00:00:00", "2026-11-01T00:00:00"):
            times = series("0 * * * *", at(start, NEW_YORK), 5, NEW_YORK)
            assert {later - earlier for earlier, later in pairwise(times)} == {HOUR}

    def test_every_day_has_its_midnight(self) -> None:
        times = series("0 0 * * *", at("2026-01-01T00:00:00", NEW_YORK), 365, NEW_YORK)
        assert len(set(times)) == 365
        assert all(time.endswith(("T00:00:00-05:00", "T00:00:00-04:00")) for time in local(times, NEW_YORK))


class TestSteps:
    def test_on_time(self) -> None:
        for misfire in ("catch_up", "skip"):
            assert step(Rule(every_ms=1000), 5000, 5001, misfire=misfire) == ([5000], 0, 6000)
            assert step(Rule(), 5000, 5001, misfire=misfire) == ([5000], 0, None)

    def test_catch_up_makes_up_for_each_in_slices(self) -> None:
        first = step(Rule(every_ms=10), 0, 10_000, misfire="catch_up")
        assert first.fires == list(range(0, SLICE * 10, 10)) and first.next_at == SLICE * 10

    def test_a_count_ends_it(self) -> None:
        assert step(Rule(every_ms=10), 0, 100, misfire="catch_up", left=3) == ([0, 10, 20], 0, None)
        assert step(Rule(every_ms=10), 0, 5, misfire="skip", left=1) == ([0], 0, None)
        assert step(Rule(every_ms=HOUR), 0, 10 * HOUR + 2 * MINUTE, misfire="skip", left=1) == (
            [],
            11,
            11 * HOUR,
        )

    def test_skip_keeps_the_latest_unless_it_is_too_late(self) -> None:
        assert step(Rule(every_ms=1000), 0, 5500, misfire="skip") == ([5000], 5, 6000)
        assert step(Rule(every_ms=HOUR), 0, 5 * HOUR + MINUTE, misfire="skip") == ([5 * HOUR], 5, 6 * HOUR)
        assert step(Rule(every_ms=HOUR), 0, 5 * HOUR + MINUTE + 1, misfire="skip") == ([], 6, 6 * HOUR)
        assert step(Rule(), 0, MINUTE + 1, misfire="skip") == ([], 1, None)

    def test_skip_after_a_year_away(self) -> None:
        start = at("2025-01-01T00:00:00")
        now = at("2026-01-01T00:00:30")
        result = step(Rule(cron="* * * * *"), start, now, misfire="skip")
        assert result.fires == [at("2026-01-01T00:00:00")] and result.next_at == at("2026-01-01T00:01:00")
        result = step(Rule(cron="0 * * * *"), start, now + 10 * MINUTE, misfire="skip")
        assert (result.fires, result.next_at) == ([], at("2026-01-01T01:00:00"))
        assert result.skipped >= 1000

    def test_a_paused_one_goes_on_with_the_next(self) -> None:
        assert resumed(Rule(every_ms=1000), 5000, 4000) == 5000
        assert resumed(Rule(every_ms=1000), 5000, 9500) == 10_000
        assert resumed(Rule(every_ms=1000), 5000, 9000) == 10_000
        assert resumed(Rule(cron="* * * * *"), MINUTE, 10 * MINUTE + 1) == 11 * MINUTE
        assert resumed(Rule(), 5000, 9000) == 5000

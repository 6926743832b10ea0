"""Percentiles of the sketch, and normalised reasons."""

import random

import pytest

from penstock.statistics import minutes
from penstock.statistics.minutes import Minute
from penstock.statistics.reasons import LONGEST, group_of, normalized
from penstock.statistics.sketch import Sketch


@pytest.mark.parametrize("q", [0.0, 0.5, 0.95, 0.99, 1.0])
def test_a_quantile_is_within_ten_percent(q: float) -> None:
    values = sorted(int(random.Random(n).lognormvariate(6, 3)) for n in range(2000))
    one, other = Sketch({}), Sketch({})
    for n, value in enumerate(values):
        (one if n % 2 else other).add(value)
    one.merge(other)
    true = values[int(q * (len(values) - 1))]
    assert one.count == 2000
    found = one.quantile(q)
    assert found is not None and abs(found - true) <= max(1, 0.1 * true)


def test_nothing_and_zero() -> None:
    sketch = Sketch({})
    assert (sketch.count, sketch.quantile(0.5)) == (0, None)
    sketch.add(0)
    assert sketch.quantile(0.5) == 0


def test_a_minute_is_written_and_read() -> None:
    minute = Minute(29_000_000, created=3)
    minute.wait.add(17)
    text = minutes.encode(minute)
    assert minutes.decode(text) == minute and len(text) < 60
    assert Minute(1).wait.counts == {}  # no minute shares its counts with another one


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("order 17 is gone", "order <n> is gone"),
        ("took 1.5 s,  then\n2:30", "took <n> s, then <n>"),
        ("no file '/tmp/a b' in \"x\"", "no file <text> in <text>"),
        ("0-0197a1b2-89ab-7def-8123-456789abcdef failed", "<id> failed"),
        ("at 0x7f00dead of deadbeef01", "at <hex> of <hex>"),
        ("facade deadbeef", "facade deadbeef"),
        ("", ""),
    ],
)
def test_reasons(reason: str, expected: str) -> None:
    assert normalized(reason) == expected
    assert normalized(expected) == expected


def test_a_long_reason_is_cut() -> None:
    assert len(normalized("x" * 5000)) == LONGEST


def test_groups_differ_in_every_part() -> None:
    ids = {group_of(*parts) for parts in ("abcd", "bacd", "abdc", "acbd", "xbcd")}
    assert len(ids) == 5 and all(len(each) == 16 for each in ids)

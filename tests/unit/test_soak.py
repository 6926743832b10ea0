"""The soak's checker stands alone, the same seed means the same faults, and what grows is found."""

import subprocess
import sys
from pathlib import Path

import pytest

from soak import growth
from soak.faults import LONGEST_S, Faults
from soak.growth import Sample

TESTS = Path(__file__).resolve().parents[1]


def test_the_checker_imports_nothing_of_penstock() -> None:
    program = (
        "import soak.checker, soak.journal, soak.streams, sys\n"
        "print([name for name in sys.modules if name.startswith('penstock') or name == 'msgspec'])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"


def test_a_seed_repeats_its_faults() -> None:
    names = ["nats-server", "scheduler", "valkey-server", "worker-1"]

    def plan(seed: int) -> list[object]:
        faults = Faults(seed, dict)
        return [faults.plan(names) for _ in range(50)]

    assert plan(1) == plan(1) != plan(2)
    assert {fault.victim for fault in plan(1)} == set(names)
    assert all(fault.stop_s <= LONGEST_S for fault in plan(1))


def samples(rss: float = 0, used_memory: float = 0, keys: float = 0, published: float = 0) -> list[Sample]:
    """Return the samples of ten rounds that grow by so much with each request, with the noise of a real run."""
    steps = [0, 900, 6456, 6464, 6320, 6320, 5652, 5784, 5788, 5992]  # KiB, of a scheduler
    return [
        Sample(
            (n := 10_000 * (round + 1)),
            {"scheduler": step * 1024 + int(rss * n), "audit-relay": 60_000_000 + int(published * n)},
            3_000_000 + step * 10 + int(used_memory * n),
            30 + (32 if round == 5 else 0) + int(keys * n),
        )
        for round, step in enumerate(steps)
    ]


def test_a_level_that_is_reached_is_no_growth() -> None:
    assert growth.growing(samples()) == []


@pytest.mark.parametrize(
    ("seeded", "what"),
    [
        ({"rss": 250}, "scheduler"),
        ({"published": 250}, "audit-relay"),
        ({"used_memory": 5}, "valkey bytes"),
        ({"keys": 0.01}, "valkey keys"),
    ],
)
def test_what_grows_is_found(seeded: dict[str, float], what: str) -> None:
    [found] = growth.growing(samples(**seeded))
    assert found.startswith(what)

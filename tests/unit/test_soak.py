"""The soak's checker stands alone, and the same seed means the same faults."""

import subprocess
import sys
from pathlib import Path

from soak.faults import LONGEST_S, Faults

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

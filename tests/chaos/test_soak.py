"""A short soak; `make soak` runs long ones."""

import random
from pathlib import Path

from soak.run import soak


async def test_a_short_soak_is_clean(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown when the test fails
    result = await soak(tmp_path, seconds=10, seed=seed, rate=12, patience_s=60, say=print, longest_s=4.0)
    assert result.findings.problems == []
    assert result.drained_s is not None, "not all has ended"
    assert result.faults, "there was no fault"
    assert result.findings.counts["executions"] > 50

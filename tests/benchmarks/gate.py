"""`--gate`: has a figure got worse since the stored result (baseline.json)?

Machines differ and so do hours, so numbers of two runs are never compared. Compared are ratios within one run: a
figure to BullMQ's same figure, or, where BullMQ has none, to the floor figure (floor.lua): what Valkey needs for a
minimal transition in a batch of 32. Counts of bytes and ratios do not depend on the machine and stand for themselves.

    make bench ARGS="--store"   measures, and makes this result the one to compare with: commit it
    make bench ARGS="--gate"    measures, says what got worse by more than 10 %, and then exits with 1
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.plan import TARGETS, Target
from benchmarks.report import OURS, Medians, number

BASELINE: Final = Path(__file__).with_name("baseline.json")
TOLERANCE: Final = 0.10
_PEER: Final = "BullMQ"
_ALREADY_RATIOS: Final = {"times", "KiB", "bytes"}
_SECONDS: Final = {"ms": 1e3, "µs": 1e6}
_FLOOR_RATE: Final = "floor_32"
_FLOOR_US: Final = "floor_us_32"

Ratios = Mapping[str, float]
"""{"<metric> beside <yardstick>": ratio}"""


def ratios(medians: Medians) -> dict[str, float]:
    """Return each figure of ours as a ratio to all yardsticks that the same run has measured."""
    ours, peer = medians.get(OURS, {}), medians.get(_PEER, {})
    found: dict[str, float] = {}
    for target in TARGETS:
        value = ours.get(target.metric)
        if value is None:
            continue
        if target.unit in _ALREADY_RATIOS:
            found[f"{target.metric} beside nothing"] = value
        elif peer.get(target.metric):
            found[f"{target.metric} beside {_PEER}"] = value / peer[target.metric]
        elif _FLOOR_US in ours:
            found[f"{target.metric} beside floor"] = _beside_floor(target, value, ours)
    return found


def _beside_floor(target: Target, value: float, ours: Mapping[str, float]) -> float:
    """Return a rate as a share of the floor's rate, or a time as a multiple of the floor's time."""
    if target.higher:
        return value / ours[_FLOOR_RATE]
    return value / _SECONDS[target.unit] / (ours[_FLOOR_US] / 1e6)


def worse(stored: Ratios, now: Ratios) -> list[str]:
    """Return a sentence for each ratio that both runs have and that is now worse by more than TOLERANCE."""
    higher = {target.metric: target.higher for target in TARGETS}
    told: list[str] = []
    for name in sorted(stored.keys() & now.keys()):
        before, after = stored[name], now[name]
        metric = name.partition(" ")[0]
        if metric not in higher or not before or not after:
            continue
        change = before / after if higher[metric] else after / before
        if change > 1 + TOLERANCE:
            told.append(f"{name}: {number(before)} → {number(after)}, worse by {(change - 1) * 100:.0f} %")
    return told


def store(path: Path, medians: Medians) -> None:
    """Write the ratios, which say nothing of the machine. Those that this run has not measured stay as they are."""
    whole = {**(load(path) if path.exists() else {}), **ratios(medians)}
    rounded = {name: float(f"{ratio:.4g}") for name, ratio in sorted(whole.items())}
    path.write_text(json.dumps(rounded, indent=2) + "\n")


def load(path: Path) -> dict[str, float]:
    return json.loads(path.read_text())


def verdict(path: Path, medians: Medians) -> tuple[str, bool]:
    """Return what to tell, and whether the gate is open. A gate that could compare nothing is closed."""
    if not path.exists():
        return f"gate: there is no {path.name} yet: measure the commit before with --store", False
    stored, now = load(path), ratios(medians)
    both = stored.keys() & now.keys()
    if not both:
        return "gate: nothing was measured that the stored result has too (--only floor,… --systems …)", False
    told = worse(stored, now)
    if told:
        return "\n".join(["gate: worse by more than 10 % than the stored result:", *told]), False
    return f"gate: none of {len(both)} figures is worse by more than 10 %", True

"""Turns the figures of all rounds into medians, ratios, a Markdown page and a JSON file."""
# ruff: noqa: RUF001 - the multiplication sign is meant

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.plan import TARGETS, Target
from benchmarks.plot import curves
from benchmarks.systems import PENSTOCK, SERVICES, System

Medians = Mapping[str, Mapping[str, float]]
"""{system: {metric: median over the rounds}}"""
OURS: Final = PENSTOCK.name
_DURABILITY: Final = {
    "disk": "Of all systems every acknowledged change is on disk (appendfsync always, sync_interval: always).",
    "process": "Acknowledged changes survive a killed server, not a power cut (appendfsync no).",
}


class Results:
    """All measured figures: {system: {metric: [a number for each round]}}."""

    def __init__(self) -> None:
        self.rounds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, system: str, figures: Mapping[str, float]) -> None:
        for metric, value in figures.items():
            self.rounds[system][metric].append(value)

    def medians(self) -> Medians:
        return {
            system: {metric: median(values) for metric, values in metrics.items()}
            for system, metrics in self.rounds.items()
        }


def write(folder: Path, results: Results, machine: Mapping[str, Any], systems: Sequence[System]) -> str:
    """Write results.json and results.md. Return the Markdown page."""
    medians = results.medians()
    page = markdown(medians, machine, systems)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"machine": machine, "medians": medians, "rounds": results.rounds}
    (folder / "results.json").write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    (folder / "results.md").write_text(page)
    return page


def markdown(medians: Medians, machine: Mapping[str, Any], systems: Sequence[System]) -> str:
    ours = medians.get(OURS, {})
    parts = [_machine(machine), _targets(medians), _peers(medians, systems), _cpu(ours), _floor(ours)]
    parts += [_lua(ours), growth(ours), idle(ours)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{_DURABILITY[machine['durability']]} {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['system']}; fsync of a small write "
        f"{machine['sync_us']} µs; load before the run {machine['load']}. {versions}."
    )


def _targets(medians: Medians) -> str:
    ours = medians.get(OURS, {})
    rows: list[Sequence[str]] = []
    for target in TARGETS:
        if target.metric not in ours:
            continue
        value = ours[target.metric]
        goal = target.goal if target.goal is not None else _best_peer(medians, target.metric)
        rows.append(
            [
                target.title,
                f"{number(value)} {target.unit}",
                f"{number(target.floor)} ({_met(target, value, target.floor)})",
                f"{number(goal)} ({_met(target, value, goal)})" if goal else "no peer measured",
            ]
        )
    return _table(["figure", "measured", "floor", "goal"], rows)


def _met(target: Target, value: float, bound: float) -> str:
    share = value / bound if target.higher else bound / value
    return f"met, {number(share)}×" if share >= 1 else f"missed, {number(share)}×"


def _best_peer(medians: Medians, metric: str) -> float | None:
    found = [figures[metric] for name, figures in medians.items() if name != OURS and metric in figures]
    return max(found, default=None)


def _peers(medians: Medians, systems: Sequence[System]) -> str:
    """Make the table of all systems; in brackets a peer's figure as a multiple of Penstock's."""
    columns = {
        "drained /s": "drain",
        "created /s": "create",
        "p50 ms": "latency_p50",
        "p99 ms": "latency_p99",
        "p99.9 ms": "latency_p999",
    }
    ours = medians.get(OURS, {})

    def cell(name: str, metric: str) -> str:
        value = medians[name].get(metric)
        if value is None:
            return ""
        ratio = f" ({number(value / ours[metric])}×)" if name != OURS and ours.get(metric) else ""
        return number(value) + ratio

    rows = [
        [system.name, *(cell(system.name, metric) for metric in columns.values()), system.keeps]
        for system in systems
        if {"drain", "latency_p50"} & medians.get(system.name, {}).keys()
    ]
    return _table(["system", *columns, "guarantees"], rows)


def _cpu(ours: Mapping[str, float]) -> str:
    """Make the table of CPU microseconds per execution and process, while created and while run."""
    rows = [
        [name, number(ours.get(f"cpu_create.{name}", 0)), number(ours[f"cpu_run.{name}"])]
        for name in (*SERVICES, "worker", "valkey-server", "nats-server")
        if f"cpu_run.{name}" in ours
    ]
    return _table(["process", "µs while created", "µs while run"], rows)


def _floor(ours: Mapping[str, float]) -> str:
    rows = [
        [size, number(ours[f"floor_{size}"]), number(ours[f"floor_us_{size}"])]
        for size in ("1", "32", "128")
        if f"floor_{size}" in ours
    ]
    return _table(["minimal transitions per FCALL", "transitions /s", "Valkey µs each"], rows)


def _lua(ours: Mapping[str, float]) -> str:
    calls = ("create", "hand_out", "complete")
    rows = [
        [
            size,
            *(number(ours[f"lua_{call}_{size}"]) for call in calls),
            number(sum(ours[f"lua_{call}_{size}"] for call in calls)),
            number(ours[f"aof_{size}"]),
        ]
        for size in ("1", "64")
        if f"aof_{size}" in ours
    ]
    return _table(
        ["plain executions per FCALL", *(f"`{call}` µs" for call in calls), "all µs", "AOF bytes"], rows
    )


def growth(ours: Mapping[str, float]) -> str:
    """Make the table of what an execution costs with more of something; in brackets, against the axis' first size."""
    rows: list[Sequence[str]] = []
    for axis, sizes in curves(ours).items():
        first = next(iter(sizes.values()))
        for size, costs in sizes.items():
            cells = [
                f"{number(costs[cost])} ({number(costs[cost] / first[cost])}×)"
                for cost in ("create", "run", "all")
            ]
            rows.append([axis, f"{int(size):,}" if size.isdigit() else size, *cells])
    head = ["more of", "size", "Valkey µs while created", "Valkey µs while run", "µs of all processes"]
    return _table(head, rows)


def idle(ours: Mapping[str, float]) -> str:
    """Make the table of a Penstock with nothing to do: percent of a core, and calls a second to Valkey."""
    rows = [
        [
            partitions,
            *(number(ours[f"idle.{partitions}.{name}"]) for name in SERVICES),
            number(ours[f"idle.{partitions}.calls"]),
        ]
        for partitions in ("1", "64")
        if f"idle.{partitions}.calls" in ours
    ]
    return _table(["partitions, idle", *(f"{name} %" for name in SERVICES), "calls /s"], rows)


def number(value: float) -> str:
    """Format a number with about three significant digits and a comma between thousands."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

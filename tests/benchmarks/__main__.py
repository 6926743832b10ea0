"""`make bench`: measure every figure of Penstock and its peers in several rounds; report the medians.

make bench ARGS="--quick"                            one short round, under two minutes
make bench ARGS="--only life,floor --systems Penstock,BullMQ"
make bench ARGS="--gate"                             compare with the stored result (gate.py)
make bench ARGS="--only growth --axes queued,lanes"  how cost grows; not part of a run unless it is named
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import gate, install, machine, plan, plot, report
from benchmarks.figures import (
    depth,
    durable,
    floor,
    flows,
    growth,
    latency,
    life,
    lua,
    observations,
    routing,
    signals,
)
from benchmarks.install import say
from benchmarks.systems import PEERS, PENSTOCK, System

_OURS = {
    "routing": routing,
    "signals": signals,
    "flows": flows,
    "observations": observations,
    "durable": durable,
}
"""Figures that are measured of Penstock alone, by name."""
FIGURES = ("floor", "lua", "life", "latency", *_OURS, "depth")


def main() -> None:
    options = _arguments()
    bounds = plan.TINY if options.tiny else plan.QUICK if options.quick else plan.FULL
    bounds = replace(bounds, durability=options.durability, rounds=options.rounds or bounds.rounds)
    bounds = replace(bounds, deep=options.deep or bounds.deep)
    systems = _present(options.systems)
    results = report.Results()
    about = {"durability": options.durability, **machine.describe()}

    def one(figure: str, system: System, measure: Callable[[], dict[str, float]]) -> None:
        say(f"{figure}: {system.name}")
        try:
            results.add(system.name, measure())
        except RuntimeError as error:  # a peer that fails must not end the whole run
            say(f"{figure}: {system.name} failed: {error}")

    for turn in range(bounds.rounds):
        say(f"round {turn + 1} of {bounds.rounds}")
        for name, figure in (("floor", floor), ("lua", lua)):
            if name in options.only:
                one(name, PENSTOCK, lambda f=figure: f.measure(bounds))
        for name, figure in (("life", life), ("latency", latency)):
            if name in options.only:
                for system in systems:
                    one(name, system, lambda s=system, f=figure: f.measure(s, bounds))
        for name, figure in _OURS.items():
            if name in options.only and PENSTOCK in systems:
                one(name, PENSTOCK, lambda f=figure: f.measure(PENSTOCK, bounds))
    if "depth" in options.only and PENSTOCK in systems:  # only once: depth takes minutes
        one("depth", PENSTOCK, lambda: depth.measure(PENSTOCK, bounds))

    if "growth" in options.only and PENSTOCK in systems:
        one("growth", PENSTOCK, lambda: growth.measure(PENSTOCK, bounds, options.axes))

    print(report.write(options.results, results, about, systems))
    say(f"written: results.md and results.json in {options.results}")
    if len(results.rounds) == 0:
        sys.exit("bench: nothing could be measured")
    if "growth" in options.only and install.python_peers():
        plot.draw(options.results / "results.json", options.results / "growth.svg")
    if options.gate:
        told, open_ = gate.verdict(gate.BASELINE, results.medians())
        print(told)
        if not open_:
            sys.exit(1)
    if options.store:
        gate.store(gate.BASELINE, results.medians())
        say(f"written: {gate.BASELINE.relative_to(install.REPOSITORY)}")


def _present(wanted: Sequence[str]) -> list[System]:
    """Install the wanted peers. Return the wanted systems that are available."""
    chosen = [system for system in (PENSTOCK, *PEERS) if system.name.lower() in wanted or not wanted]
    peers = [system for system in chosen if system is not PENSTOCK]
    python = any(system.name != "BullMQ" for system in peers) and install.python_peers()
    node = any(system.name == "BullMQ" for system in peers) and install.node_peers()
    return [s for s in chosen if s is PENSTOCK or (node if s.name == "BullMQ" else python)]


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name.strip().lower() for name in text.split(",") if name.strip()]

    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, add_help=True)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--tiny", action="store_true", help="counts that only show that it runs")
    parser.add_argument("--rounds", type=int, help="instead of three")
    parser.add_argument("--only", type=names, default=list(FIGURES), help=f"of {', '.join(FIGURES)}, growth")
    parser.add_argument("--systems", type=names, default=[], help="Penstock, BullMQ, streaQ … (default: all)")
    parser.add_argument(
        "--durability",
        choices=["disk", "process"],
        default="disk",
        help="what the servers keep (default: disk)",
    )
    parser.add_argument("--axes", type=names, default=list(growth.AXES), help="of the figure growth")
    parser.add_argument("--deep", type=int, help="the most that is queued or suspended, instead of 1,000,000")
    parser.add_argument("--gate", action="store_true", help="compare with the stored result")
    parser.add_argument("--store", action="store_true", help="store the result to compare with")
    results = install.REPOSITORY / "build" / "benchmarks"
    parser.add_argument(
        "--results", type=Path, default=results, help="folder for results.md and results.json"
    )
    options = parser.parse_args()
    known = {s.name.lower() for s in (PENSTOCK, *PEERS)}
    unknown = [set(options.only) - {*FIGURES, "growth"}, set(options.systems) - known]
    for wrong in set.union(*unknown, set(options.axes) - set(growth.AXES)):
        parser.error(f"unknown: {wrong}")
    return options


if __name__ == "__main__":
    main()

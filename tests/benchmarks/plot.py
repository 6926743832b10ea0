"""Draws the figure `growth`: processor time per execution over what there is, one panel for each axis.

matplotlib is part of the extra `bench`, so this file runs by itself in the peers' environment and imports nothing of
Penstock:

    .venv/bench/bin/python tests/benchmarks/plot.py build/benchmarks/results.json docs/growth.svg
"""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

Curves = dict[str, dict[str, dict[str, float]]]
"""{axis: {size: {cost: microseconds}}}"""


def draw(results: Path, picture: Path) -> None:
    """Run this file in the environment that has matplotlib."""
    from benchmarks import install

    subprocess.run([install.PYTHON, __file__, results, picture], check=True)


def curves(figures: Mapping[str, float]) -> Curves:
    """Sort the metrics `growth.<axis>.<size>.<cost>` by axis and size, in the order in which they were measured."""
    found: Curves = defaultdict(lambda: defaultdict(dict))
    for metric, value in figures.items():
        if metric.startswith("growth."):
            _, axis, size, cost = metric.split(".")
            found[axis][size][cost] = value
    return found


def short(size: str) -> str:
    """Return a count as 1k, 100k or 1M; a word as it is."""
    if not size.isdigit() or int(size) < 1000:
        return size
    return f"{int(size) // 1_000_000}M" if int(size) >= 1_000_000 else f"{int(size) // 1000}k"


def main(results: Path, picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "penstock"  # the same figures make the same file
    from matplotlib import pyplot

    axes = curves(json.loads(results.read_text())["medians"]["Penstock"])
    figure, panels = pyplot.subplots(2, 4, figsize=(11, 5.5), layout="constrained")
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for panel, (axis, points) in zip(panels.flat, axes.items(), strict=False):
        names = sorted(points, key=lambda size: (not size.isdigit(), int(size) if size.isdigit() else 0))
        words = [short(name) for name in names]
        valkey = [points[name]["create"] + points[name]["run"] for name in names]
        panel.plot(words, [points[name]["all"] for name in names], "o-", label="all processes")
        panel.plot(words, valkey, "s-", label="Valkey")
        panel.set_ylim(bottom=0)
        panel.set_title(axis)
        panel.grid(axis="y", alpha=0.3)
        panel.tick_params(axis="x", labelsize=7)
    panels[0][0].set_ylabel("µs per execution")
    panels[0][0].legend(frameon=False)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""The report of `make bench`. The benchmark itself is run by hand; these tests check its arithmetic."""
# ruff: noqa: RUF001 - the multiplication sign is meant

from pathlib import Path

import pytest

from benchmarks import gate, plot, report
from benchmarks.figures import growth
from benchmarks.plan import FULL, QUICK
from benchmarks.report import Results, markdown
from benchmarks.systems import PEERS, PENSTOCK

MACHINE = {
    "durability": "disk",
    "cores": 2,
    "cpu": "a",
    "system": "b",
    "sync_us": 9,
    "load": 0,
    "versions": {},
}


def test_a_peer_is_shown_as_a_multiple_of_ours_and_is_the_goal():
    results = Results()
    for drained in (7000, 6000, 1):
        results.add("Penstock", {"drain": drained, "latency_p50": 2.0})
    results.add("BullMQ", {"drain": 9000, "latency_p50": 1.0})
    page = markdown(results.medians(), MACHINE, (PENSTOCK, *PEERS))
    assert "| 6,000 /s | 5,000 (met, 1.20×) | 9,000 (missed, 0.67×) |" in page
    assert "| BullMQ | 9,000 (1.50×) |  | 1.00 (0.50×) |" in page


def test_less_is_better_for_times():
    results = Results()
    results.add("Penstock", {"latency_p99": 5.0})
    page = markdown(results.medians(), MACHINE, (PENSTOCK, *PEERS))
    assert "| 5.00 ms | 10.0 (met, 2.00×) | 4.00 (missed, 0.80×) |" in page


def test_nothing_measured_is_an_empty_page_but_for_the_machine():
    assert "|" not in markdown({}, MACHINE, (PENSTOCK, *PEERS))


RUN = {
    "Penstock": {
        "drain": 6000.0,
        "latency_p50": 3.0,
        "valkey_calls": 100.0,
        "flows": 200.0,
        "depth_ratio": 1.0,
        "floor_32": 100_000.0,
        "floor_us_32": 5.0,
    },
    "BullMQ": {"drain": 12_000.0, "latency_p50": 1.5},
}


def _run(**changes: float) -> dict[str, dict[str, float]]:
    return {**RUN, "Penstock": RUN["Penstock"] | changes}


def test_the_gate_compares_with_bullmq_and_else_with_the_floor():
    assert gate.ratios(RUN) == {
        "drain beside BullMQ": 0.5,
        "latency_p50 beside BullMQ": 2.0,
        "valkey_calls beside floor": pytest.approx(20),
        "flows beside floor": 0.002,
        "depth_ratio beside nothing": 1.0,
    }


def test_a_machine_half_as_fast_passes_the_gate(tmp_path: Path):
    stored = tmp_path / "baseline.json"
    gate.store(stored, RUN)
    slow = {
        "Penstock": {
            "drain": 3000.0,
            "latency_p50": 6.0,
            "valkey_calls": 200.0,
            "flows": 100.0,
            "depth_ratio": 1.0,
            "floor_32": 50_000.0,
            "floor_us_32": 10.0,
        },
        "BullMQ": {"drain": 6000.0, "latency_p50": 3.0},
    }
    assert gate.verdict(stored, slow) == ("gate: none of 5 figures is worse by more than 10 %", True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"drain": 5000.0}, "drain beside BullMQ: 0.50 → 0.42, worse by 20 %"),
        ({"latency_p50": 3.6}, "latency_p50 beside BullMQ: 2.00 → 2.40, worse by 20 %"),
        ({"valkey_calls": 120.0}, "valkey_calls beside floor: 20.0 → 24.0, worse by 20 %"),
        ({"depth_ratio": 1.5}, "depth_ratio beside nothing: 1.00 → 1.50, worse by 50 %"),
    ],
)
def test_the_gate_names_what_got_worse_in_either_direction(
    tmp_path: Path, changed: dict[str, float], told: str
):
    stored = tmp_path / "baseline.json"
    gate.store(stored, RUN)
    text, passed = gate.verdict(stored, _run(**changed))
    assert not passed
    assert text.splitlines()[1:] == [told]


def test_better_and_a_little_worse_pass_the_gate(tmp_path: Path):
    stored = tmp_path / "baseline.json"
    gate.store(stored, RUN)
    assert gate.verdict(stored, _run(drain=9000.0, latency_p50=3.2))[1]


def test_a_gate_that_can_compare_nothing_is_closed(tmp_path: Path):
    stored = tmp_path / "baseline.json"
    assert not gate.verdict(stored, RUN)[1]
    gate.store(stored, {"Penstock": {"depth_ratio": 1.0}})
    assert not gate.verdict(stored, {"Penstock": {"drain": 1.0}, "BullMQ": {"drain": 1.0}})[1]


def test_storing_a_part_keeps_the_rest(tmp_path: Path):
    stored = tmp_path / "baseline.json"
    gate.store(stored, RUN)
    gate.store(stored, {"Penstock": {"depth_ratio": 1.2}})
    assert gate.load(stored) == pytest.approx(gate.ratios(RUN) | {"depth_ratio beside nothing": 1.2})


def test_the_curves_of_growth_come_from_the_metrics():
    figures = {"growth.queued.1000.run": 1.0, "growth.queued.1000.all": 2.0, "drain": 3.0}
    assert plot.curves(figures) == {"queued": {"1000": {"run": 1.0, "all": 2.0}}}
    assert [plot.short(size) for size in ("100", "10240", "1000000", "off")] == ["100", "10k", "1M", "off"]


def test_every_axis_of_growth_has_points_and_a_quick_plan_few():
    full, quick = list(growth.points(FULL)), list(growth.points(QUICK))
    assert {point.axis for point in full} | {"idle"} == set(growth.AXES)
    assert len({point.name for point in full}) == len(full)
    assert max(point.queued for point in full) == max(point.suspended for point in full) == 1_000_000
    assert max(point.queued for point in quick) == 100_000


def test_growth_is_told_against_the_first_size_of_its_axis():
    figures = {
        f"growth.queued.{size}.{cost}": value
        for size, value in (("1000", 50.0), ("100000", 60.0))
        for cost in ("create", "run", "all")
    }
    page = report.growth(figures)
    assert "| queued | 1,000 | 50.0 (1.00×) | 50.0 (1.00×) | 50.0 (1.00×) |" in page
    assert "| queued | 100,000 | 60.0 (1.20×) | 60.0 (1.20×) | 60.0 (1.20×) |" in page

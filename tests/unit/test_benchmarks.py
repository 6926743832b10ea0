"""The report of `make bench`. The benchmark itself is run by hand; these tests check its arithmetic."""
# ruff: noqa: RUF001 - the multiplication sign is meant

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

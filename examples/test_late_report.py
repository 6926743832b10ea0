"""How to test a retry that is days away (docs/testing.md). The fixture `penstock` comes from `penstock.testing`."""

from datetime import timedelta

import late_report
from penstock.testing import Penstock


async def test_the_report_is_made_three_days_later(penstock: Penstock) -> None:
    client = await penstock.client()
    await penstock.run_worker(late_report.worker)
    run = await client.submit("report", {"month": "2026-02"}, max_attempts=2)

    await penstock.wait_for(run, "retry_wait")
    penstock.clock.move(timedelta(days=3))
    assert await run.result(timeout=20) == "report of 2026-02"


async def test_or_without_knowing_when(penstock: Penstock) -> None:
    client = await penstock.client()
    await penstock.run_worker(late_report.worker)
    run = await client.submit("report", {"month": "2026-03"}, max_attempts=2)

    await penstock.wait_for(run, "retry_wait")
    skipped = await penstock.clock.skip_to_next_due()
    assert timedelta(days=2.9) < skipped <= late_report.LATER
    assert await run.result(timeout=20) == "report of 2026-03"

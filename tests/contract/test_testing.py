"""`penstock.testing`, with which users test their own handlers."""

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from commands import clean_environment
from penstock import ExecutionCanceled, Task, Worker
from running_penstock import WAIT_S, RunningPenstock

REPOSITORY = Path(__file__).parents[2]
DAYS = timedelta(days=3)


@pytest.mark.parametrize(
    ("example", "tests"),
    [("test_late_report.py", 2), ("order", 2), ("agent", 2), ("nightly_import", 1), ("tutorial", 3)],
)
async def test_the_examples_of_the_docs(example: str, tests: int) -> None:
    """Run an example in its own pytest process, as a user does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"examples/{example}"),
        cwd=REPOSITORY,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert f"{tests} passed" in out.decode()


def test_the_docs_show_the_crash_test() -> None:
    source = (REPOSITORY / "examples" / "order" / "test_order.py").read_text()
    example = source[source.index("async def") :].split("\n\n\n")[0]
    assert example in (REPOSITORY / "docs" / "testing.md").read_text()


def test_the_docs_show_the_example() -> None:
    shown = (REPOSITORY / "docs" / "testing.md").read_text()
    source = (REPOSITORY / "examples" / "test_late_report.py").read_text()
    example = source[source.index("async def") :].split("\n\n\n")[0]
    assert example in shown


async def test_a_worker_made_for_elsewhere(penstock: RunningPenstock) -> None:
    elsewhere = Worker("nats://192.0.2.1:4222", root="elsewhere", lanes=["quick"], worker_id="w")

    @elsewhere.handler("who")
    async def who(task: Task) -> str:
        return task.lane

    client = await penstock.client()
    guest = await penstock.run_worker(elsewhere)
    assert guest is not elsewhere and guest.root == penstock.root
    assert await (await client.submit("who", lane="quick")).result(timeout=WAIT_S) == "quick"
    assert elsewhere.url == "nats://192.0.2.1:4222" and not elsewhere.ready.is_set()
    again = await penstock.run_worker(elsewhere)
    assert again.worker_id != guest.worker_id


async def test_handlers_that_hang_do_not_keep_the_test(nats_url: str, valkey_url: str) -> None:
    worker = Worker(grace=60.0)
    began = asyncio.Event()

    @worker.handler("hang")
    async def hang() -> None:
        began.set()
        await asyncio.sleep(3600)

    async with RunningPenstock.open(nats_url, valkey_url) as penstock:
        await penstock.run_worker(worker)
        await (await penstock.client()).submit("hang")
        await asyncio.wait_for(began.wait(), WAIT_S)
        ending = time.monotonic()
    assert time.monotonic() - ending < 600  # the handler would hang for an hour


async def test_time_moves(penstock: RunningPenstock) -> None:
    worker = Worker()

    @worker.handler("job")
    async def job() -> str:
        return "done"

    client = await penstock.client()
    await penstock.run_worker(worker)
    now = await penstock.clock.now()
    assert abs(now - time.time() * 1000) < 60_000
    with pytest.raises(LookupError):
        await penstock.clock.skip_to_next_due()

    soon = await client.submit("job", run_at=now + 3_600_000)
    later = await client.submit("job", run_at=now + 7_200_000)
    assert await penstock.clock.skip_to_next_due() <= timedelta(hours=1, seconds=1)
    assert await soon.result(timeout=WAIT_S) == "done"
    assert await later.status() == "scheduled"
    penstock.clock.move(timedelta(hours=1))
    assert await later.result(timeout=WAIT_S) == "done"
    assert penstock.skew_ms >= 7_200_000 - 60_000


async def test_time_limits_pass(penstock: RunningPenstock) -> None:
    client = await penstock.client()
    run = await client.submit("nobody.does.this", deadline_at=await penstock.clock.now() + 86_400_000)
    with pytest.raises(TimeoutError, match="is ready"):
        await asyncio.wait_for(run.wait(0.05), 20)
    penstock.clock.move(DAYS)
    with pytest.raises(ExecutionCanceled):
        await run.result(timeout=WAIT_S)


async def test_no_server_outlives_the_session(tmp_path: Path) -> None:
    """When pytest is killed with SIGKILL, its servers end too."""
    if sys.platform != "linux":
        pytest.skip("needs the kernel's parent-death signal")
    script = (
        "import os, signal\n"
        "from penstock.testing import servers\n"
        "with servers() as urls:\n"
        "    print(*urls, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    deadline = time.monotonic() + 60
    for url in out.decode().split():
        port = int(url.split("/")[2].rpartition(":")[2])
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
            except OSError:
                break
            assert time.monotonic() < deadline, f"{url} still answers"
            await asyncio.sleep(0.02)

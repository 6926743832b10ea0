"""The soak's worker: `python -m soak.worker NATS_URL JOURNAL NAME`. It notes each outcome that it is answered."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from penstock import Fail, Retry, Suspend, Task, Worker
from soak.journal import Journal

LANES = ("soak-a", "soak-b")


def make(url: str, journal: Journal, name: str, root: str = "penstock") -> Worker:
    """Return a worker with a handler for each kind of the load."""
    worker = Worker(
        url, lanes=LANES, concurrency=16, lease_ttl=3.0, park=2.0, grace=3.0, worker_id=name, root=root
    )

    async def complete(task: Task, result: Any = None) -> None:
        """Complete the task, and note the answer with the lease that it was for."""
        state = await task.complete(result)
        epoch = task.lease_epoch
        journal.note("outcome", execution=task.execution_id, epoch=epoch, worker=name, state=state)

    @worker.handler("soak.quick")
    async def quick(task: Task) -> None:
        await complete(task, task.attempt_index)

    @worker.handler("soak.triggered")
    async def triggered(task: Task) -> None:
        await complete(task)

    @worker.handler("soak.step")
    async def step(task: Task) -> None:
        await complete(task, {"by": name})

    @worker.handler("soak.slow")
    async def slow(task: Task, seconds: float) -> None:
        await task.progress(10, "begun")
        await asyncio.sleep(seconds)
        await task.append_frame("half", {"seconds": seconds})
        await complete(task)

    @worker.handler("soak.flaky")
    async def flaky(task: Task, failures: int) -> None:
        if task.attempt_index <= failures:
            raise Retry("not yet", after=0.1)
        await complete(task)

    @worker.handler("soak.doomed")
    async def doomed(task: Task) -> None:
        raise Fail("as it was asked to")

    @worker.handler("soak.later")
    async def later(task: Task, seconds: float) -> None:
        if not task.resumed:
            await task.delay(seconds)
        else:
            await complete(task)

    @worker.handler("soak.parent")
    async def parent(task: Task, children: int) -> None:
        if not task.resumed:
            for n in range(children):
                key = f"{task.execution_id}-{n}"
                await task.create_child("soak.quick", lane=LANES[n % 2], idempotency_key=key)
            await task.await_children()
        else:
            await complete(task)

    @worker.handler("soak.voted")
    async def voted(task: Task, votes: int) -> None:
        if not task.resumed:
            waitpoint = await task.create_waitpoint("vote", expires_in=3600)
            token, id = waitpoint.token, waitpoint.waitpoint_id
            journal.note("waitpoint", waitpoint=id, token=token, votes=votes)
            condition = {"count": votes, "of": [{"name": "vote"}]} if votes > 1 else "vote"
            raise Suspend(condition, waitpoint=waitpoint)
        await complete(task, len(await task.resumed_by()))

    @worker.handler("soak.spend")
    async def spend(task: Task, budget: str, tokens: int) -> None:
        amounts = {"tokens": tokens}
        await task.report_usage(budget, amounts, dedup_key=task.execution_id)
        journal.note("usage", budget=budget, execution=task.execution_id, amounts=amounts)
        if not task.consumed:
            await complete(task)

    return worker


if __name__ == "__main__":
    _, nats_url, path, worker_name = sys.argv
    make(nats_url, Journal(Path(path)), worker_name).main()

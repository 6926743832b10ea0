"""Temporal, on the server at an address: prints what the figure `durable` measures of Penstock, as one JSON line.

python -m benchmarks.peers.temporal HOST:7233 '{"count": 500, "functions": 500, "concurrency": 64, "journal": 1000}'

By hand, with PyPI's temporalio. The server: `go install go.temporal.io/server/cmd/server@v1.30.8`, started with
`--env development-sqlite-file` and the configuration of that name from its module: SQLite, which syncs each commit to
the disk (`synchronous: 2`). With its one shard, `history.transferProcessorMaxPollRPS` (20 by default) is to be raised
to 10000 in its dynamic configuration: else no workflow gets more than ten activities a second.

Worker and client are one process, workflows run without the sandbox. A step is an activity, which another worker could
run as well. Local activities are measured too: they run inside the worker, and are stored only with the end of their
workflow task, so that a crash runs all of them again. Replay: workflows with that many activities wait for a signal,
their worker is replaced by one that knows none of them; timed is from the signal to the result, less that of one.
"""

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

STEPS = 10
REPLAYS = 5
NAMESPACE = "bench"
QUEUE = "bench"
TIMEOUT = timedelta(minutes=1)


@activity.defn
async def noop() -> None: ...


def step(local: bool) -> Any:
    call: Callable[..., Any] = workflow.execute_local_activity if local else workflow.execute_activity
    return call(noop, start_to_close_timeout=TIMEOUT)


@workflow.defn
class Timed:
    @workflow.run
    async def run(self, count: int, local: bool) -> list[float]:
        samples: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            await step(local)
            samples.append(time.perf_counter() - started)
        return samples


@workflow.defn
class Steps:
    @workflow.run
    async def run(self, local: bool) -> None:
        for _ in range(STEPS):
            await step(local)


@workflow.defn
class Long:
    def __init__(self) -> None:
        self.asleep = self.going = False

    @workflow.run
    async def run(self, count: int) -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*(step(local=False) for _ in range(start, min(start + 100, count))))
        self.asleep = True
        await workflow.wait_condition(lambda: self.going)

    @workflow.query
    def waits(self) -> bool:
        return self.asleep

    @workflow.signal
    def go(self) -> None:
        self.going = True


class Bench:
    def __init__(self, client: Client, concurrency: int) -> None:
        self.client = client
        self.concurrency = concurrency

    def worker(self, **options: Any) -> Worker:
        return Worker(
            self.client,
            task_queue=QUEUE,
            workflows=[Timed, Steps, Long],
            activities=[noop],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=self.concurrency,
            max_concurrent_local_activities=self.concurrency,
            max_concurrent_workflow_tasks=self.concurrency,
            **options,
        )

    async def run(self, kind: Any, *args: Any) -> Any:
        return await self.client.execute_workflow(kind, args=args, id=str(uuid.uuid4()), task_queue=QUEUE)

    async def samples(self, count: int, local: bool) -> list[float]:
        await self.run(Timed.run, 10, local)
        return await self.run(Timed.run, count, local)

    async def rate(self, functions: int, local: bool) -> float:
        limit = asyncio.Semaphore(self.concurrency)

        async def one() -> None:
            async with limit:
                await self.run(Steps.run, local)

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(functions)))
        return functions / (time.perf_counter() - started)

    async def replay(self, length: int) -> float:
        """Return the median seconds from a signal to the result, on a worker that has to read all of the history."""
        handles = []
        async with self.worker():
            for _ in range(REPLAYS):
                handle = await self.client.start_workflow(
                    Long.run, length, id=str(uuid.uuid4()), task_queue=QUEUE
                )
                async with asyncio.timeout(600):
                    while not await handle.query(Long.waits):  # noqa: ASYNC110 - it waits in another process
                        await asyncio.sleep(0.05)
                handles.append(handle)
        seconds: list[float] = []
        async with self.worker(max_cached_workflows=0, max_concurrent_workflow_task_polls=1):
            for handle in handles:
                started = time.perf_counter()
                await handle.signal(Long.go)
                await handle.result()
                seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)


async def measure(
    address: str, count: int, functions: int, concurrency: int, journal: int
) -> dict[str, object]:
    bench = Bench(await connect(address), concurrency)
    measured: dict[str, object] = {}
    async with bench.worker():
        for local, prefix in ((False, ""), (True, "local_")):
            measured[prefix + "samples"] = await bench.samples(count, local)
            measured[prefix + "rate"] = await bench.rate(functions, local)
    short, long = await bench.replay(1), await bench.replay(journal)
    return measured | {"replay": long - short}


async def connect(address: str) -> Client:
    """Return a client of a namespace for this, once a new one is known everywhere."""
    client = await Client.connect(address, namespace=NAMESPACE)
    request = RegisterNamespaceRequest(namespace=NAMESPACE)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    try:
        await client.workflow_service.register_namespace(request)
    except RPCError as error:
        print(error, file=sys.stderr)  # it is there
    deadline = time.monotonic() + 60
    while True:
        try:
            await client.count_workflows()
            return client
        except RPCError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], **json.loads(sys.argv[2])))), flush=True)

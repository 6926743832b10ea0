"""One trace over a submit and two attempts: `python examples/traced.py`, with `penstock up --nats-port 4222` running.

It needs `pip install opentelemetry-sdk`. A real program exports its spans to a collector instead of printing them.
"""

import asyncio
import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from penstock import Client, Retry, Task, Worker

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")
ROOT = os.environ.get("PENSTOCK_ROOT", "penstock")

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)  # before the first Client, and before the worker runs

worker = Worker(NATS_URL, root=ROOT)


@worker.handler("order.ship")
async def ship(task: Task, number: int) -> str:
    if task.attempt_index == 1:
        raise Retry("no parcel at hand", after=0)
    with trace.get_tracer(__name__).start_as_current_span("pack"):
        return f"order {number} is on its way"


async def main() -> None:
    async with await Client.connect(NATS_URL, root=ROOT) as client:
        working = asyncio.create_task(worker.run())
        with trace.get_tracer(__name__).start_as_current_span("POST /orders"):
            run = await client.submit("order.ship", {"number": 7}, max_attempts=2)
        print(await run.result(timeout=30))
        worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main())

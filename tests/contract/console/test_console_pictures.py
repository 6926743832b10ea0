"""The pictures of the docs: `PENSTOCK_PICTURES=docs` makes them anew, of a `penstock up` under load."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from consoles import PICTURES, WAIT_S, Console
from penstock import Fail, Retry, Suspend, Task, Worker

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not PICTURES, reason="PENSTOCK_PICTURES names no directory for the pictures"),
]

LOAD_S = 75.0
"""Seconds of load before the pictures: the shortest chart shows a minute."""
SEED = 3
tokens: list[str] = []
"""Of the waitpoint at which the order waits for its approval."""


async def mail(task: Task, to: str) -> str:
    await asyncio.sleep(random.uniform(0.02, 0.12))
    if random.random() < 0.02:
        raise Fail("the mailbox does not exist", category="bounced")
    return f"sent to {to}"


async def render(task: Task, pages: int) -> dict[str, int]:
    await asyncio.sleep(pages * 0.01)
    if task.attempt_index == 1 and random.random() < 0.1:
        raise Retry("the printer's queue is full", after=0.4)
    return {"pages": pages}


async def charge(task: Task, order: int, amount: int) -> dict[str, Any]:
    await task.append_frame("log", {"line": f"charging order {order}"})
    await asyncio.sleep(0.6)
    if task.attempt_index == 1:
        raise Retry("bank timed out", after=1.2)
    if not task.resumed:
        await task.progress(40, "asking two of three for their approval")
        waitpoint = await task.create_waitpoint("approval", expires_in=48 * 3600)
        tokens.append(waitpoint.token)
        condition = {"count": 2, "distinct_sources": True, "of": [{"name": "approved"}]}
        raise Suspend(condition, waitpoint=waitpoint, timeout=48 * 3600)
    return {"order": order, "amount": amount}


async def step(task: Task) -> None:
    await asyncio.sleep(0.2)


async def approve(task: Task) -> None:
    raise Suspend("approved")


HANDLERS = {
    "mail.send": mail,
    "invoice.render": render,
    "order.charge": charge,
    "catalogue.step": step,
    "catalogue.approve": approve,
}


@contextlib.asynccontextmanager
async def load(console: Console) -> AsyncIterator[None]:
    """Run workers, and create work for them, meanwhile."""
    worker = Worker(
        console.up.facts["nats_url"], concurrency=24, worker_id="shop-1", lanes=["default", "mail"]
    )
    for kind, handler in HANDLERS.items():
        worker.handler(kind)(cast("Any", handler))

    async def submit() -> None:
        random.seed(SEED)
        n = 0
        while True:
            n += 1
            tags = {"shop": random.choice(["eu", "us", "jp"]), "order": str(n)}
            await console.client.submit(
                "mail.send", {"to": f"customer-{n}@example.com"}, lane="mail", tags=tags
            )
            if n % 3 == 0:
                await console.client.submit(
                    "invoice.render", {"pages": random.randint(1, 9)}, tags=tags, max_attempts=3
                )
            await asyncio.sleep(random.uniform(0.02, 0.12))

    running = [asyncio.create_task(worker.run(handle_signals=False))]
    try:
        await asyncio.wait_for(worker.ready.wait(), WAIT_S)
        running.append(asyncio.create_task(submit()))
        yield
    finally:
        running[-1].cancel()
        worker.stop()
        worker.stop()
        await asyncio.wait(running)


async def picture(console: Console, name: str) -> None:
    path = str(Path(PICTURES or "") / f"console-{name}.png")
    await console.page.run("await page.screenshot({ path: args.path })", path=path)


async def test_the_pictures(console: Console) -> None:
    await console.page.fresh(width=1280, height=760)
    async with load(console):
        await console.goto("/now")
        run = await console.client.submit(
            "order.charge", {"order": 285, "amount": 195}, max_attempts=4, tags={"order": "285", "shop": "us"}
        )
        flow = await flow_of(console)
        await console.reaches(run.execution_id, "suspended")
        await asyncio.sleep(LOAD_S)
        await console.page.run("await page.getByRole('button', { name: '1 minute' }).click()")
        await asyncio.sleep(2)
        await picture(console, "now")
        await console.page.move("/executions")
        await console.page.run("await page.locator('[role=row][data-id]').nth(12).waitFor()")
        await asyncio.sleep(1)
        await picture(console, "executions")
    payload = {"by": "Ada", "note": "as agreed"}
    await console.client.signal(tokens[0], "approved", payload, source="ada")
    await console.page.move(f"/executions/{run.execution_id}")
    await console.page.run(
        """
        await page.getByText("received approved").click();
        await page.getByRole("group", { name: "Payload of approved" }).waitFor();
        await page.getByRole("log", { name: "Frames" }).waitFor();
        """
    )
    await console.page.run("await page.setViewportSize({ width: 1280, height: 920 })")
    await picture(console, "execution")
    await console.page.fresh(width=1280, height=700, colorScheme="dark")
    await console.goto(f"/flows/{flow}")
    await console.page.run("await page.locator('.box').nth(5).waitFor()")
    await asyncio.sleep(1)
    await picture(console, "flow")


async def flow_of(console: Console) -> str:
    """Start a flow that gets as far as an approval. Return its id."""
    members = [
        {"key": key, "kind": "catalogue.step"} for key in ("fetch", "parse", "index", "check", "mail", "done")
    ]
    flow = await console.client.flows.create(
        "index the catalogue",
        owner="search",
        members=[*members, {"key": "approval", "kind": "catalogue.approve"}],
        edges=[
            ("fetch", "parse"), ("parse", "index"), ("parse", "check"), ("index", "approval"), ("index", "mail"),
            ("check", "mail"), ("mail", "done"), ("approval", "done"),
        ],
    )  # fmt: skip
    await flow.start()
    return flow.flow_id

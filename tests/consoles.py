"""The console in a real browser, against a real `penstock up` with a worker: what the tests of its screens share."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from msgspec import Meta

from browser import Browser
from commands import Up
from penstock import Client, Fail, Retry, Suspend, Task, Worker

WAIT_S = 45.0
PICTURES = os.environ.get("PENSTOCK_PICTURES")
"""A directory for screenshots, if they are wanted."""


class Console(NamedTuple):
    up: Up
    client: Client
    page: Browser

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        """Run Penstock in an empty folder, with a worker for the handlers below, and a browser."""
        async with (
            Up.open(folder) as up,
            await Client.connect(up.facts["nats_url"]) as client,
            Browser.open() as page,
        ):
            worker = Worker(up.facts["nats_url"], concurrency=16, park=1)
            for kind, handler in HANDLERS.items():
                worker.handler(kind)(handler)
            running = asyncio.create_task(worker.run(handle_signals=False))
            try:
                await asyncio.wait_for(worker.ready.wait(), WAIT_S)
                await page.fresh()
                yield cls(up, client, page)
            finally:
                worker.stop()
                worker.stop()
                await asyncio.wait({running})

    @property
    def url(self) -> str:
        return self.up.facts["console_url"]

    async def goto(self, path: str) -> None:
        await self.page.run(
            "await page.goto(args.url); await page.locator('h1').waitFor()", url=self.url + path
        )

    async def reaches(self, execution_id: str, *states: str) -> Any:
        """Wait until the execution is in one of these states. Return its record."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while (record := await self.client.get(execution_id)).state not in states:
            assert asyncio.get_running_loop().time() < deadline, f"it is {record.state}, not {states}"
            await asyncio.sleep(0.05)
        return record

    async def does(self, verb: str, title: str, **fields: str) -> None:
        """Choose an action of the shown thing's menu, fill its fields in, and confirm it."""
        await self.page.run(
            """
            await page.getByRole("button", { name: /^Actions for this/ }).first().click();
            await page.locator(`[role=menuitem][data-verb="${args.verb}"]`).first().click();
            const dialog = page.getByRole("dialog");
            await dialog.waitFor();
            for (const [name, value] of Object.entries(args.fields)) {
              const field = dialog.locator(`[name=${name}]`);
              if ((await field.evaluate((each) => each.tagName)) === "SELECT") await field.selectOption(value);
              else await field.fill(value);
            }
            await dialog.getByRole("button", { name: args.title, exact: true }).click();
            await dialog.waitFor({ state: "hidden" });
            """,
            verb=verb,
            title=title,
            fields=fields,
        )


@dataclass
class Address:
    city: str
    zip: Annotated[str, Meta(pattern="^[0-9]{5}$")] = "00000"


async def double(task: Task, number: int) -> int:
    await task.append_frame("log", {"doubling": number})
    return 2 * number


async def two_steps(task: Task, n: int) -> list[int]:
    async def given() -> int:
        return n

    task.state["stage"] = "halfway"
    return [await task.step("first", given), await task.step("second", given)]


async def order(
    customer: str,
    lines: int,
    price: float = 1.5,
    gift: bool = False,
    size: Literal["small", "large"] = "small",
    when: datetime | None = None,
    address: Address | None = None,
    notes: list[str] | None = None,
) -> str:
    return (
        f"{lines} {size} for {customer} in {address.city if address else 'nowhere'}, {gift}, {price}, {notes}"
    )


async def ask(task: Task) -> list[str]:
    if not task.resumed:
        raise Suspend("approved")
    return [signal.name for signal in await task.resumed_by()]


async def decline(task: Task) -> None:
    raise Fail("card declined", category="declined")


async def retry(task: Task) -> None:
    raise Retry("not yet", after=3600)


async def hold(task: Task) -> None:
    await asyncio.sleep(3600)


HANDLERS = {
    "double": double,
    "two.steps": two_steps,
    "order": order,
    "ask": ask,
    "decline": decline,
    "retry": retry,
    "hold": hold,
}
"""What the worker does, by kind."""

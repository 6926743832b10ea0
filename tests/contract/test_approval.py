"""The approval example, with a real web server and a real HTTP client."""

import asyncio
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from approval.app import app, work
from penstock import Client, Worker
from running_penstock import WAIT_S, RunningPenstock


@pytest.fixture
async def page(penstock: RunningPenstock, client: Client) -> AsyncIterator[str]:
    """Run the web page and its worker; yield the address of the page."""
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    worker = Worker(penstock.settings.nats_url, root=penstock.root)
    work(worker, base)
    server = uvicorn.Server(uvicorn.Config(app(client), log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    working = asyncio.create_task(worker.run(handle_signals=False))
    yield base
    worker.stop()
    server.should_exit = True
    await asyncio.gather(serving, working)


async def test_a_click_decides(penstock: RunningPenstock, page: str, client: Client) -> None:
    run = await client.submit("expense.pay", {"who": "ada <ada@x>", "amount": 120})
    async for frame in client.frames(run.execution_id, follow=True):
        address = frame.payload
        break
    await penstock.reaches(run.execution_id, "suspended")
    async with httpx.AsyncClient() as browser:
        shown = await browser.get(address)
        assert shown.status_code == 200 and "ada &lt;ada@x&gt;" in shown.text
        assert (await browser.post(address, data={"decision": "maybe"})).status_code == 400
        forged = address.replace("token=", "token=x")
        assert (await browser.get(forged)).status_code == 403
        assert (await browser.get(f"{page}{urlsplit(address).path}")).status_code == 403
        for _ in range(2):  # a double click
            assert (await browser.post(address, data={"decision": "approved"})).text == "approved, thank you"
        assert await run.result(timeout=WAIT_S) == "120 for ada <ada@x>: approved"
        assert (await browser.get(address)).status_code == 410

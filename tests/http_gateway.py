"""A gateway as a process of its own, in front of a test's Penstock."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from commands import clean_environment
from penstock_gateway.tokens import USEFUL, add
from running_penstock import WAIT_S, RunningPenstock


class Gateway:
    """A running gateway with one token for each role."""

    def __init__(self, process: Process, facts: dict[str, str], folder: Path, tokens: dict[str, str]) -> None:
        self.process = process
        self.url = facts["url"]
        self.metrics_url = facts["metrics_url"]
        self.tokens_file = folder / "gateway.tokens"
        self.log_file = folder / "gateway.log"
        self.tokens = tokens
        self.http = httpx.AsyncClient(base_url=self.url, timeout=WAIT_S)

    def headers(self, role: str = "operator") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    async def ask(self, verb: str, body: Any, role: str = "operator", **headers: str) -> httpx.Response:
        """Send a verb with a JSON body."""
        path = f"/v1/{verb.replace('.', '/')}"
        return await self.http.post(path, json=body, headers={**self.headers(role), **headers})

    @asynccontextmanager
    async def events(
        self, query: str = "", role: str = "operator", **headers: str
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Open an event stream. Yield its lines behind the first block, which says that it is open."""
        asked = {**self.headers(role), **headers}
        async with self.http.stream("GET", f"/v1/events{query}", headers=asked) as answer:
            assert answer.status_code == 200, await answer.aread()
            lines = answer.aiter_lines()
            assert await anext(lines) == ": open"
            assert (await anext(lines)).startswith("id: ") and await anext(lines) == ""
            yield lines

    @property
    def log(self) -> str:
        return self.log_file.read_text()


@asynccontextmanager
async def gateway_of(
    penstock: RunningPenstock, folder: Path, nats_url: str | None = None, **settings: str
) -> AsyncIterator[Gateway]:
    """Run a gateway; stop it at the end, if the test has not done so. `settings` are its own, in lower case."""
    tokens_file, ready = folder / "gateway.tokens", folder / "gateway.json"
    tokens = {role: add(tokens_file, f"the-{role}", role) for role in USEFUL}
    # A slow machine is no reason to give up; what limits there are is tested with a test's own settings.
    given = {"rate": "10000", "link_rate": "10000", "timeout_ms": "60000", **settings}
    with (folder / "gateway.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "penstock_gateway",
            env={
                **clean_environment(),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "PENSTOCK_NATS_URL": nats_url or penstock.url,
                "PENSTOCK_ROOT": penstock.root,
                "PENSTOCK_READY_FILE": str(ready),
                "PENSTOCK_GATEWAY_PORT": "0",
                "PENSTOCK_GATEWAY_TOKENS": str(tokens_file),
                **{f"PENSTOCK_GATEWAY_{name.upper()}": value for name, value in given.items()},
            },
            stdout=log,
            stderr=log,
        )
    try:
        await penstock.until(lambda: asyncio.to_thread(ready.exists), bool, "the gateway")
        gateway = Gateway(process, json.loads(ready.read_text()), folder, tokens)
        async with gateway.http:
            yield gateway
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), WAIT_S)

"""Helpers that run the `penstock` command as a process, and a separate `penstock up` for a test."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from running_penstock import RunningPenstock

WAIT_S = 60.0
COMMAND = (sys.executable, "-m", "penstock.cli")
BARE = ("--no-gateway", "--no-console")
"""Arguments of a `penstock up` that starts nothing but servers and services."""


class Said(NamedTuple):
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Awaitable[Said]]
"""`await cli("get", id)` runs one command with the settings of the test's Penstock."""


async def penstock(*arguments: str, stdin: str = "", cwd: Path | None = None, **env: str) -> Said:
    """Run one command to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env={**clean_environment(), **env},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), WAIT_S)
    finally:
        if process.returncode is None:
            process.kill()
    return Said(process.returncode or 0, out.decode(), err.decode())


def told(house: RunningPenstock) -> dict[str, str]:
    """Return the environment variables that connect a command to a test's Penstock."""
    return {"PENSTOCK_NATS_URL": house.url, "PENSTOCK_ROOT": house.root}


def clean_environment() -> dict[str, str]:
    """Return the environment without the Penstock settings of the person who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}


class Up:
    """A running `penstock up`."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.data = folder / ".penstock"
        self.ready_file = folder / "ready.json"
        self.process = process

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        *arguments: str,
        command: tuple[str, ...] = COMMAND,
        wait: bool = True,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[Self]:
        files = ("--ready-file", str(folder / "ready.json"))
        with (folder / "up.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                "up",
                *files,
                *arguments,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**clean_environment(), **(env or {})},
            )
        up = cls(folder, process)
        try:
            if wait:
                await up.until(up.ready_file.exists, "the ready file")
            yield up
        finally:
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), WAIT_S)

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.ready_file.read_text())

    @property
    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def pids(self) -> list[int]:
        """Return the process ids of all services and servers that it has started."""
        return [*self.facts["pids"].values(), *self.facts["server_pids"].values()]

    async def kill(self) -> None:
        """Kill `penstock up` with SIGKILL, so that it cannot clean up."""
        self.process.kill()
        await self.process.wait()

    async def until(self, holds: Any, what: str) -> None:
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while not holds():
            if self.process.returncode is not None and not self.ready_file.exists():
                raise AssertionError(f"penstock up has ended before {what}:\n{self.log}")
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{what} did not come about:\n{self.log}")
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)

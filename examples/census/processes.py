"""The demo's child processes. Each has a log file, and all end with the demo, even after an error."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

EXAMPLES = Path(__file__).parents[1]


class Ready(msgspec.Struct):
    """The content of the file that `penstock up --ready-file` writes once every service answers."""

    nats_url: str
    pids: dict[str, int] = {}


class Processes:
    """Child processes. `async with Processes(folder) as processes` stops them at its end, the last started first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: dict[str, Process] = {}

    async def start(
        self, name: str, module: str, *arguments: str, talks: bool = False, **env: str
    ) -> Process:
        """Run a Python module as a process, with its output in `<folder>/<name>.log`.

        With `talks`, stdout is a pipe that the caller reads, and only stderr goes to the log.
        """
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                cwd=EXAMPLES,
                env=os.environ | env,
                stdin=DEVNULL,
                stdout=PIPE if talks else log,
                stderr=log if talks else STDOUT,
            )
        self._started[name] = process
        return process

    async def start_penstock(self, timeout: float) -> Ready:
        """Run `penstock up`, wait until it is ready, and return the content of its ready file."""
        file = self.folder / "ready.json"
        data = str(self.folder / "data")
        up = await self.start("penstock", "penstock.cli", "up", "--data", data, "--ready-file", str(file))
        deadline = time.monotonic() + timeout
        while up.returncode is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError, msgspec.DecodeError):
                return msgspec.json.decode(file.read_bytes(), type=Ready)
            await asyncio.sleep(0.05)
        how = f"is not ready after {timeout:g} s" if up.returncode is None else f"ended with {up.returncode}"
        raise RuntimeError(f"penstock up {how}:\n{self.log_tail('penstock')}")

    def log_tail(self, name: str, lines: int = 20) -> str:
        """Return the last lines of a process's log."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._started.values()):
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 15)
                except TimeoutError:
                    process.kill()
                    await process.wait()

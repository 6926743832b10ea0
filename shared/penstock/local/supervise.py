"""Child processes that are kept running, and that never outlive this one."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penstock.backoff import Backoff

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 10.0
"""Seconds after which a process counts as running well: its next restart is quick again."""

PR_SET_PDEATHSIG: Final = 1
_LIBC: Final[Any] = ctypes.CDLL(None) if sys.platform == "linux" else None


def dies_with(parent: int) -> Callable[[], None] | None:
    """Run in the child before its program starts: the kernel kills it when this process dies, however."""
    libc = _LIBC
    if libc is None:  # elsewhere only an orderly end takes the children along
        return None

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return before_exec


class Child:
    """One process, started again with growing pauses when it ends by itself."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        on_end: Callable[["Child", int], None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._env = {**os.environ, **(env or {})}
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """Of the process that ran last; None while one runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Starts it, and keeps it running from now on."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, patience: float) -> None:
        """Ends it: SIGTERM, and SIGKILL when that takes longer than `patience` seconds."""
        self._stopping.set()
        if self._keeper is None:
            return
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._keeper}, timeout=patience)
        if not done:
            self.signal(signal.SIGKILL)
            await self._keeper

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if there is anybody to hear it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def last_words(self, lines: int = 5) -> list[str]:
        """The end of what the present (or last) process has logged."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - 8192))
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def last_word(self) -> str:
        """The last line of its log, in words if it is one of our services'."""
        line = (self.last_words(1) or [""])[0]
        with contextlib.suppress(ValueError, TypeError):
            said: dict[str, Any] = json.loads(line)
            why = said.get("reason") or said.get("error") or said.get("exception", "").rpartition("\n")[2]
            parts = (said["event"], why)
            return ": ".join(str(part) for part in parts if part)
        return line

    async def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor only: it keeps the order
                preexec_fn=dies_with(os.getpid()),
            )

    async def _keep(self) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            began = time.monotonic()
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > STEADY_S:
                backoff.reset()
            if self._on_end is not None:
                self._on_end(self, code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff.next_s())
                return
            with contextlib.suppress(OSError):  # no memory, no file handle: the next round tries again
                await self._spawn()
            if self._stopping.is_set():  # asked while it was being started
                self.signal(signal.SIGTERM)


def in_words(code: int) -> str:
    """How a process ended."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"

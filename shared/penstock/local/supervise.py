"""Supervise child processes: restart them when they end, and never let them outlive this process."""

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
"""Seconds after which a process counts as stable: its next restart then uses the first, short pause."""

PR_SET_PDEATHSIG: Final = 1
_LIBC: Final[Any] = ctypes.CDLL(None) if sys.platform == "linux" else None


def dies_with(parent: int) -> Callable[[], None] | None:
    """Return a preexec function that makes the kernel kill the child when this process dies for any reason."""
    libc = _LIBC
    if libc is None:  # outside Linux, children end only if this process stops them
        return None

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)

    return before_exec


class Child:
    """A child process that is restarted, with growing pauses, when it ends by itself."""

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
        """Pid of the running process; None while none runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last process; None while a process runs, or before the first start."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start the process, and restart it from now on when it ends by itself."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, patience: float) -> None:
        """Stop the process with SIGTERM, and with SIGKILL if it has not ended after `patience` seconds."""
        self._stopping.set()
        if self._keeper is None:
            return
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._keeper}, timeout=patience)
        if not done:
            self.signal(signal.SIGKILL)
            await self._keeper

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if one runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def last_words(self, lines: int = 5) -> list[str]:
        """Return the last lines that the current (or last) process has logged."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - 8192))
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def last_word(self) -> str:
        """Return the last line of the log; of a service's JSON line, only the event and its reason."""
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
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops all in order
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
            with contextlib.suppress(OSError):  # such as no memory or file handle: the next round retries
                await self._spawn()
            if self._stopping.is_set():  # `stop` was called during the spawn
                self.signal(signal.SIGTERM)


def in_words(code: int) -> str:
    """Describe how a process ended, given its return code (negative: the number of a signal)."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"

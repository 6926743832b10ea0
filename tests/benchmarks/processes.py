"""Child processes: programs that print JSON lines, and the CPU time of a process."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Program:
    """A running program that prints JSON lines, one per `read`. As a context manager, it kills the program at exit."""

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self._name = " ".join(Path(part).name for part in command[:4])
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, timeout: float) -> dict[str, Any]:
        """Return the next JSON line. Raise RuntimeError if the program ends, or is killed at the timeout."""
        watchdog = threading.Timer(timeout, self._process.kill)
        watchdog.start()
        try:
            while line := self._process.stdout.readline():  # type: ignore[union-attr]
                if line.startswith("{"):  # skips other output of a peer's library
                    return json.loads(line)
        finally:
            watchdog.cancel()
        code = self._process.wait()
        raise RuntimeError(f"{self._name} ended ({code}) before it answered:\n{self._tail()}")

    def stop(self) -> None:
        """Terminate the program with SIGTERM; kill it after 15 s."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def cpu_seconds(pid: int) -> float:
    """Return the user and system CPU time of a process with its threads, so far; 0 if there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS

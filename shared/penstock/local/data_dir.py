"""The data directory of one `penstock up`: its lock, its ports, its logs, and the facts about what runs now.

Payloads, keys and passwords are in it: what is written there is open to its owner alone (0600, directories 0700).
"""

import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from penstock.files import write_whole
from penstock.local.problems import Problem

DEFAULT: Final = Path(".penstock")
PRIVATE: Final = 0o077
"""The umask under which all files of a data directory are made, also by the servers and services started from it."""


class DataDir:
    """A data directory. `up.json` exists while everything is up; `ports.json` keeps the ports across restarts."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.run = self.path / "run"
        self.up_file = self.path / "up.json"
        self._ports_file = self.path / "ports.json"
        self._lock_file = self.path / "lock"

    @contextmanager
    def held(self) -> Generator[None]:
        """Lock the directory until the block or the process ends. Raise Problem if another process holds the lock.

        Until then this process makes files for its own user alone.
        """
        umask = os.umask(PRIVATE)
        try:
            with self._locked():
                yield
        finally:
            os.umask(umask)

    @contextmanager
    def _locked(self) -> Generator[None]:
        try:
            if self._lock_file.exists():  # ours, perhaps from a version that left it open to others
                _close_to_others(self.path)
            for folder in (self.path, self.logs, self.run):
                folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock_file.open("a+")
        except OSError as error:
            raise Problem(f"cannot use {self.path} for data: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise Problem(
                    f"another `penstock up` (pid {lock.read().strip() or 'unknown'}) uses {self.path}: "
                    "stop that one, or name another directory with --data"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            try:
                yield
            finally:
                self.up_file.unlink(missing_ok=True)

    def ports(self) -> dict[str, int]:
        """Return the ports of the last run, by server: `nats`, `valkey`."""
        return {name: port for name, port in read_json(self._ports_file).items() if isinstance(port, int)}

    def remember_ports(self, ports: dict[str, int]) -> None:
        write_json(self._ports_file, {**self.ports(), **ports})

    def token_key(self) -> Path:
        """Return the file with the key that signs tokens; create it if it is missing. Raises Problem."""
        return self._secret("token.key")

    def valkey_password(self) -> Path:
        """Return the file with the password of this directory's Valkey; create it if it is missing. Raises Problem."""
        return self._secret("valkey.password")

    def _secret(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            try:
                write_whole(path, secrets.token_hex(32) + "\n", 0o600)
            except OSError as error:
                raise Problem(f"cannot write {error.filename or path}: {error.strerror}") from None
        return path

    def log(self, name: str) -> Path:
        """Return the log file for a process's output. A log over 32 MiB is first renamed to `<name>.log.1`."""
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > 32 * 2**20:
            path.replace(path.with_suffix(".log.1"))
        return path

    def running(self) -> dict[str, Any] | None:
        """Return the contents of `up.json` if the `penstock up` that wrote it still runs, else None."""
        facts = read_json(self.up_file)
        with suppress(OSError, KeyError, TypeError):
            os.kill(facts["pid"], 0)
            return facts
        return None


def _close_to_others(folder: Path) -> None:
    """Take all rights on a folder and what is in it from everybody but the owner."""
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Return an empty dict if the file is missing or not valid JSON."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON; a reader sees the old or the new file, never half of one. Raises OSError."""
    write_whole(path, json.dumps(value, indent=2) + "\n")

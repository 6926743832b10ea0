"""The services of a deployment on this machine: each a supervised process with settings, a ready file and a log."""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from penstock.local.data_dir import DataDir, read_json
from penstock.local.options import Options
from penstock.local.own_servers import OwnServers
from penstock.local.problems import Problem, Status
from penstock.local.secure import Security
from penstock.local.supervise import Child
from penstock.verbs import SERVICES

LOOK_S: Final = 0.03
SLOW_S: Final = 10.0
READY_PATIENCE_S: Final = 60.0
"""Seconds within which one more service must become ready while the deployment starts."""
MANY_ENDS: Final = 3
"""So often may a service be killed before it is ready, until the start counts as failed."""
DRAIN_S: Final = 15.0


class LocalServices:
    """The processes of all services, which use the servers of `OwnServers` once those have started."""

    def __init__(
        self,
        options: Options,
        data: DataDir,
        security: Security | None,
        servers: OwnServers,
        status: Status,
        on_end: Callable[[Child, int], None],
    ) -> None:
        """on_end: called when a process ends by itself, with its exit code; it is then started again."""
        self._options = options
        self._data = data
        self._security = security
        self._servers = servers
        self._status = status
        self._on_end = on_end
        self._children: dict[str, Child] = {}
        self._ends: Counter[str] = Counter()

    @property
    def children(self) -> list[Child]:
        return list(self._children.values())

    async def start(self) -> None:
        for service in SERVICES:
            for number in range(1, self._options.scale.get(service, 1) + 1):
                await self._start_service(service, service if number == 1 else f"{service}-{number}")

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop(DRAIN_S) for child in self._children.values()))

    def ended(self, child: Child, code: int) -> bool:
        """Remove the ready file of a service that ended by itself. Return whether a start fails because of that."""
        if child.name not in self._children:  # a server
            return False
        self._ready_file(child.name).unlink(missing_ok=True)
        self._ends[child.name] += 1
        # Services wait for missing servers, so an exit code is another failure; a signal may be chance.
        return code > 0 or self._ends[child.name] >= MANY_ENDS

    def ready(self) -> dict[str, dict[str, Any]]:
        """Return the ready file's contents of each service that is ready now, by process name."""
        found = {name: read_json(self._ready_file(name)) for name in self._children}
        # Without the check for facts, no file and no process (both None) would count as ready.
        return {
            name: facts
            for name, facts in found.items()
            if facts and facts.get("pid") == self._children[name].pid
        }

    async def all_ready(self) -> dict[str, dict[str, Any]]:
        """Wait until all services are ready, and return what `ready` returns. Raise Problem if they stay unready."""
        slow = time.monotonic() + SLOW_S
        deadline = time.monotonic() + READY_PATIENCE_S
        fewest = len(self._children) + 1
        while True:
            ready = self.ready()
            waiting = [name for name in self._children if name not in ready]
            if not waiting:
                return ready
            others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            self._status.doing(f"waiting for {waiting[0]}{others}")
            now = time.monotonic()
            if now > slow:
                slow = now + SLOW_S * 3
                for name in waiting:
                    self._status.bad(name, f"is not ready yet: {self._said(name)}")
            if len(waiting) < fewest:
                fewest, deadline = len(waiting), now + READY_PATIENCE_S
            elif now > deadline:
                # A given Valkey that reads its data may take minutes, and the services say so.
                if any("LOADING" in self._said(name) for name in waiting):
                    deadline = now + READY_PATIENCE_S
                    continue
                name = waiting[0]
                raise Problem(
                    f"{name} is not ready after {READY_PATIENCE_S:g} s{others and ', nor are others'}:"
                    f" {self._said(name)} (log: {self._children[name].log})"
                )
            await asyncio.sleep(LOOK_S)

    def _said(self, name: str) -> str:
        return self._children[name].last_word() or "it has said nothing yet"

    async def _start_service(self, service: str, name: str) -> None:
        ready_file = self._ready_file(name)
        ready_file.unlink(missing_ok=True)
        env = {
            **checkout_settings(),
            "PENSTOCK_ROOT": self._options.root,
            **self._token_key(),
            **cluster_settings(self._servers.nodes),
            **self._options.settings,
            "PENSTOCK_NATS_URL": self._servers.nats_url or "",
            "PENSTOCK_VALKEY_URL": self._servers.valkey_url or "",
            **(self._identity(service) or self._valkey_login()),
            "PENSTOCK_READY_FILE": str(ready_file),
        }
        command = [sys.executable, "-P", "-m", f"penstock_{service.replace('-', '_')}"]
        child = Child(name, command, self._data.log(name), env, on_end=self._on_end)
        self._children[name] = child
        await child.start()

    def _identity(self, service: str) -> dict[str, str]:
        """Return the variables with which a service is itself and no other, in a secured deployment."""
        if self._security is None:
            return {}
        return self._security.settings(service, self._servers.nats_url or "", self._servers.valkey_url or "")

    def _token_key(self) -> dict[str, str]:
        """Return the variable for this deployment's own token key; none if the environment already gives a key."""
        if any(os.environ.get(name) for name in ("PENSTOCK_TOKEN_KEY", "PENSTOCK_TOKEN_KEY_FILE")):
            return {}
        return {"PENSTOCK_TOKEN_KEY_FILE": str(self._data.token_key())}

    def _valkey_login(self) -> dict[str, str]:
        """Return the variable that leads services to the password of our own Valkey: a path, which is no secret."""
        file = self._servers.password_file
        return {"PENSTOCK_VALKEY_PASSWORD_FILE": str(file)} if file else {}

    def _ready_file(self, name: str) -> Path:
        return self._data.run / f"{name}.json"


def checkout_settings() -> dict[str, str]:
    """Return PENSTOCK_DEV in a source checkout: `lua/` changes while old data stays, so services must reload it."""
    package = Path(__file__).resolve().parents[1]
    in_checkout = not (package / "lua").is_dir()
    return {"PENSTOCK_DEV": "1"} if in_checkout and "PENSTOCK_DEV" not in os.environ else {}


def cluster_settings(nodes: int) -> dict[str, str]:
    """Return what services need to know of clusters: several partitions for each primary, and three copies of a stream.

    What the environment says goes before that.
    """
    if nodes == 1:
        return {}
    settings = {
        "PENSTOCK_PARTITIONS": str(4 * nodes),
        "PENSTOCK_STREAM_REPLICAS": "3",
        "PENSTOCK_ACKNOWLEDGED": "replicas:1",
    }
    return {name: value for name, value in settings.items() if not os.environ.get(name)}

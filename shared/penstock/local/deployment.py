"""Run the servers and all services on this machine, each as a supervised process."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any, Final

from penstock.console import server as console
from penstock.local.data_dir import DataDir, read_json, write_json
from penstock.local.gateway import LocalGateway
from penstock.local.options import Options
from penstock.local.own_servers import OwnServers
from penstock.local.problems import Problem, Status
from penstock.local.refusals import refusing
from penstock.local.secure import Security
from penstock.local.supervise import Child, in_words
from penstock.runtime.settings import Settings, SettingsError
from penstock.throttle import Throttle
from penstock.urls import redact
from penstock.verbs import SERVICES

LOOK_S: Final = 0.03
WATCH_S: Final = 0.2
SLOW_S: Final = 10.0
READY_PATIENCE_S: Final = 60.0
"""Seconds within which one more service must become ready while the deployment starts."""
MANY_ENDS: Final = 3
"""So often may a service be killed before it is ready, until the start counts as failed."""
DRAIN_S: Final = 15.0


class Deployment:
    """The servers and services that one `penstock up` starts, supervises and stops."""

    def __init__(self, options: Options, status: Status) -> None:
        self._options = options
        self._status = status
        self._data = DataDir(options.data)
        self._services: dict[str, Child] = {}
        self._ends: Counter[str] = Counter()
        self._security = Security(options.secure, options.root) if options.secure else None
        self._servers = OwnServers(options, self._data, self._security, status, self._ended)
        self._console_facts: dict[str, str] = {}
        self._gateway = LocalGateway(options, self._data, self._security, status)
        self._ready = False
        self._failed: asyncio.Future[Problem] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP. Raise Problem if the start fails. Leave no process behind."""
        self._check_settings()
        with self._data.held():
            stop = self._on_signals()
            if self._options.ready_file:
                self._options.ready_file.unlink(missing_ok=True)
            work = asyncio.create_task(self._live())
            try:
                await asyncio.wait({work, stop, self._failed}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
                if self._failed.done():
                    raise self._failed.result()
            finally:
                work.cancel()
                await asyncio.wait({work})
                await self._stop()

    @contextlib.asynccontextmanager
    async def servers_only(self) -> AsyncGenerator[tuple[str, str]]:
        """Run the servers without services, for a restore. Yield the URLs of NATS and Valkey, the latter with its
        password. Raise Problem.
        """
        with self._data.held():
            try:
                await self._servers.start()
                yield self._servers.nats_url or "", self._servers.valkey_login
            finally:
                await self._stop()

    async def _live(self) -> None:
        began = time.monotonic()
        self._status.say(f"Starting Penstock; data and logs in {self._data.path}")
        await self._servers.start()
        await self._start_services()
        await self._gateway.start(self._servers.nats_url or "")
        facts = await self._all_ready()
        serving = self._console()
        facts |= self._console_facts
        for name in self._services:
            self._status.good(name, f"pid {facts['pids'][name]:<8} {facts['metrics_urls'][name]}")
        await self._gateway.ready()
        facts |= self._gateway.facts
        try:
            self._publish(facts)
        except OSError as error:
            raise Problem(f"cannot write {error.filename or self._data.path}: {error.strerror}") from None
        self._ready = True
        self._status.say(f"Ready after {time.monotonic() - began:.1f} s: NATS is {redact(facts['nats_url'])}")
        if url := facts.get("console_url"):
            self._status.say(f"The console is {url}")
        await asyncio.gather(self._watch(facts), self._mend_nats(), serving)

    def _console(self) -> Awaitable[None]:
        """Listen where the console is served, and return what serves it. A console that cannot be is said, no more."""
        websocket = self._servers.websocket
        if websocket is None:
            return _nothing()
        if why := console.missing():
            self._status.say(f"  No console: {why}")
            return _nothing()
        try:
            listening = console.listen("127.0.0.1", websocket.console_port)
        except Problem as problem:
            self._status.bad("console", str(problem))
            return _nothing()
        self._console_facts = {
            "console_url": f"http://127.0.0.1:{websocket.console_port}",
            "nats_ws_url": websocket.url,
        }
        return console.serve(
            console.Config(
                nats_ws=websocket.url, root=self._options.root, secured=self._security is not None
            ),
            listening,
        )

    def _check_settings(self) -> None:
        """Raise Problem for what every service would refuse at its start, before anything is started."""
        given = {
            "PENSTOCK_NATS_URL": self._options.nats_url,
            "PENSTOCK_VALKEY_URL": self._options.valkey_url,
            "PENSTOCK_ROOT": self._options.root,
        }
        try:
            Settings.from_env(
                {**os.environ, **self._options.settings, **{k: v or "" for k, v in given.items()}}
            )
        except SettingsError as error:
            raise Problem(str(error)) from None

    # --- services

    async def _start_services(self) -> None:
        for service in SERVICES:
            for number in range(1, self._options.scale.get(service, 1) + 1):
                await self._start_service(service, service if number == 1 else f"{service}-{number}")

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
        child = Child(name, command, self._data.log(name), env, on_end=self._ended)
        self._services[name] = child
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

    def _ready_facts(self) -> dict[str, dict[str, Any]]:
        """Return the ready file's contents of each service that is ready now, by process name."""
        found = {name: read_json(self._ready_file(name)) for name in self._services}
        # Without the check for facts, no file and no process (both None) would count as ready.
        return {
            name: facts
            for name, facts in found.items()
            if facts and facts.get("pid") == self._services[name].pid
        }

    async def _all_ready(self) -> dict[str, Any]:
        slow = time.monotonic() + SLOW_S
        deadline = time.monotonic() + READY_PATIENCE_S
        fewest = len(self._services) + 1
        while True:
            ready = self._ready_facts()
            waiting = [name for name in self._services if name not in ready]
            if not waiting:
                return self._facts(ready)
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
                    f" {self._said(name)} (log: {self._services[name].log})"
                )
            await asyncio.sleep(LOOK_S)

    def _said(self, name: str) -> str:
        return self._services[name].last_word() or "it has said nothing yet"

    def _facts(self, ready: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {
            "nats_url": self._servers.nats_url,
            "valkey_url": self._servers.valkey_url,
            "valkey_password_file": str(self._servers.password_file) if self._servers.password_file else None,
            "metrics_urls": {name: facts["metrics_url"] for name, facts in ready.items()},
            "pids": {name: facts["pid"] for name, facts in ready.items()},
            "server_pids": {child.name: child.pid for child in self._servers.children},
            "pid": os.getpid(),
            "root": self._options.root,
            **self._console_facts,
            "data": str(self._data.path),
            **self._gateway.facts,
            **(self._security.facts if self._security else {}),
        }

    async def _watch(self, facts: dict[str, Any]) -> None:
        """Update the published facts when processes are restarted. Retry when the files cannot be written."""
        complaints = Throttle()
        while True:
            await asyncio.sleep(WATCH_S)
            ready = self._ready_facts()
            now = self._facts(ready)
            for key in ("metrics_urls", "pids"):  # a service that is restarting keeps its old entry
                now[key] = {**facts[key], **now[key]}
            if now != facts:
                try:
                    self._publish(now)
                except OSError as error:
                    if complaints.passes():
                        self._status.bad("up.json", f"cannot be written: {error.strerror}; trying again")
                    continue
                for name in ready:
                    if now["pids"][name] != facts["pids"][name]:
                        self._status.good(name, f"pid {now['pids'][name]:<8} again ready")
                facts = now

    async def _mend_nats(self) -> None:
        """Start nats-server again whenever it refuses messages because its disk was full: nothing else helps then."""
        child = next((each for each in self._servers.children if each.name == "nats-server"), None)
        if child is None:  # a nats-server that somebody else runs
            return
        streams = f"{self._options.root.upper()}_"
        while True:
            await refusing(
                self._data.path / "nats",
                streams,
                lambda: [facts["metrics_url"] for facts in self._ready_facts().values()],
            )
            self._status.bad("nats-server", "refuses messages since its disk was full; starting it again")
            child.signal(signal.SIGTERM)

    def _publish(self, facts: dict[str, Any]) -> None:
        """Write the facts to `up.json` and to the ready file, if there is one. Raises OSError."""
        write_json(self._data.up_file, facts)
        if self._options.ready_file:
            write_json(self._options.ready_file, facts)

    # --- the end

    def _ended(self, child: Child, code: int) -> None:
        """Handle a process that ended by itself: fail the start-up, or log that the process is being restarted."""
        if child.name in self._services:
            self._ready_file(child.name).unlink(missing_ok=True)
            self._ends[child.name] += 1
            # Services wait for missing servers, so an exit code is another failure; a signal may be chance.
            if not self._ready and (code > 0 or self._ends[child.name] >= MANY_ENDS):
                if not self._failed.done():
                    said = child.last_word() or in_words(code)
                    self._failed.set_result(Problem(f"{child.name}: {said} (log: {child.log})"))
                return
        self._status.bad(child.name, f"ended ({in_words(code)}); starting it again. Log: {child.log}")

    def _on_signals(self) -> "asyncio.Future[None]":
        """Return a future that the first signal completes. A second signal kills all processes at once."""
        loop = asyncio.get_running_loop()
        stop: asyncio.Future[None] = loop.create_future()

        def on_signal() -> None:
            if not stop.done():
                stop.set_result(None)
                return
            for child in [self._gateway, *self._services.values(), *self._servers.children]:
                child.signal(signal.SIGKILL)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has SIGHUP ignored
                loop.add_signal_handler(number, on_signal)
        return stop

    async def _stop(self) -> None:
        """Stop the services first, then the servers: services need the servers to finish their work."""
        self._status.doing("stopping")
        if self._options.ready_file and self._ready:
            self._options.ready_file.unlink(missing_ok=True)
        self._data.up_file.unlink(missing_ok=True)
        await self._gateway.stop()
        await asyncio.gather(*(child.stop(DRAIN_S) for child in self._services.values()))
        await self._servers.stop()
        with contextlib.suppress(OSError):
            self._status.say("Stopped.")


async def _nothing() -> None:
    """Serve no console."""


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

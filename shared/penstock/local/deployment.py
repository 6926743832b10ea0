"""One deployment on this machine: start its servers and services, tell what runs where, and stop all in order."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final

from penstock.console import server as console
from penstock.local.data_dir import DataDir, write_json
from penstock.local.gateway import LocalGateway
from penstock.local.options import Options
from penstock.local.own_servers import OwnServers
from penstock.local.problems import Problem, Status
from penstock.local.refusals import refusing
from penstock.local.secure import Security
from penstock.local.services import LocalServices
from penstock.local.supervise import Child, in_words
from penstock.runtime.settings import Settings, SettingsError
from penstock.throttle import Throttle
from penstock.urls import redact

WATCH_S: Final = 0.2


class Deployment:
    """The servers and services that one `penstock up` starts, supervises and stops."""

    def __init__(self, options: Options, status: Status) -> None:
        self._options = options
        self._status = status
        self._data = DataDir(options.data)
        self._security = Security(options.secure, options.root) if options.secure else None
        self._servers = OwnServers(options, self._data, self._security, status, self._ended)
        self._services = LocalServices(
            options, self._data, self._security, self._servers, status, self._ended
        )
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
        await self._services.start()
        await self._gateway.start(self._servers.nats_url or "")
        facts = self._facts(await self._services.all_ready())
        serving = self._console()
        facts |= self._console_facts
        for name in facts["pids"]:
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

    # --- while it runs

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
            ready = self._services.ready()
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
                lambda: [facts["metrics_url"] for facts in self._services.ready().values()],
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
        if self._services.ended(child, code) and not self._ready:
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
            for child in [self._gateway, *self._services.children, *self._servers.children]:
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
        await self._services.stop()
        await self._servers.stop()
        with contextlib.suppress(OSError):
            self._status.say("Stopped.")


async def _nothing() -> None:
    """Serve no console."""

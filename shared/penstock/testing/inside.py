"""`Penstock`: all six services in one event loop, on real servers."""

import asyncio
import contextlib
import importlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

import msgspec
from nats.aio.client import Client as Nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from penstock.bus import streams
from penstock.bus.connection import connect
from penstock.client import Client, Run
from penstock.codecs import Codecs
from penstock.messages.common import Record
from penstock.runtime import Settings, start
from penstock.runtime.running import Running
from penstock.testing.clock import Clock
from penstock.verbs import SERVICES
from penstock.worker import Worker

PATIENCE_S: Final = 20.0
"""The timeout for things that normally take milliseconds. Long, because test machines can be slow."""
LOOK_S: Final = 0.01
SWEEP_MS: Final = 1000


class Penstock:
    """A Penstock that runs for the length of one test.

    Clients connect to `url` with `root`. `clock` moves the services' time. `services` has the running services by
    name: `await penstock.services["scheduler"].stop()` stops one, and `start_service` starts it again.
    """

    def __init__(self, nats: Nats, settings: Settings) -> None:
        self.url = settings.nats_url
        self.root = settings.root
        self.settings = settings
        self.services: dict[str, Running] = {}
        self.clock = Clock(self.services)
        self.nats = nats
        self.js: JetStreamContext = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        self._client = Client(nats, root=self.root)
        self._guests = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def open(cls, nats_url: str, valkey_url: str, **settings: Any) -> AsyncGenerator[Self]:
        """Start all services on these servers, under a new root. On exit, stop them and delete their streams.

        `settings` are fields of `penstock.runtime.Settings`, such as `partitions=3`, or a `root` that is there already.
        """
        given: dict[str, Any] = {"dev": True, "sweep_ms": SWEEP_MS, **settings}
        root = str(given.pop("root", f"t{secrets.token_hex(5)}"))
        nats = await connect(nats_url, "penstock-testing")
        penstock = cls(nats, Settings(nats_url=nats_url, valkey_url=valkey_url, root=root, **given))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(nats.close)
            stack.push_async_callback(penstock._remove_streams)
            stack.push_async_callback(penstock._stop_services)
            await streams.ensure(  # once, instead of six services at the same time
                penstock.js, root, bounds=penstock.settings.stream_bounds()
            )
            await asyncio.gather(*(penstock.start_service(name) for name in SERVICES))
            async with penstock._guests:
                yield penstock

    async def client(self, *, codec: Codecs = None) -> Client:
        """Return a connected client, which is closed when the test ends."""
        client = await Client.connect(self.url, root=self.root, codec=codec)
        self._guests.push_async_callback(client.close)
        return client

    async def run_worker(self, worker: Worker) -> Worker:
        """Run a copy of `worker` against this Penstock, whatever URL `worker` has. The copy stops when the test ends.

        Return the running copy. Because it is a copy, many tests can use the same worker.
        """
        guest = worker.at(self.url, root=self.root)
        running = asyncio.create_task(guest.run(handle_signals=False))
        ready = asyncio.create_task(guest.ready.wait())
        self._guests.push_async_callback(self._send_home, guest, running)
        await asyncio.wait({running, ready}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            await running
        return guest

    async def wait_for(self, run: Run | str, *states: str) -> Record:
        """Wait until an execution is in one of `states`, and return its record. Raises `TimeoutError` after 20 s."""
        execution_id = run if isinstance(run, str) else run.execution_id
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        while True:
            record = await self._client.get(execution_id)
            if record.state in states:
                return record
            if loop.time() > end:
                raise TimeoutError(
                    f"{record.kind} {execution_id} is {record.state}, not {' or '.join(states)}"
                )
            await asyncio.sleep(LOOK_S)

    async def start_service(self, name: str) -> Running:
        """Start a service that was stopped."""
        build = importlib.import_module(f"penstock_{name.replace('-', '_')}.service").build
        settings = msgspec.structs.replace(self.settings, instance=f"{name}-{secrets.token_hex(3)}")
        running = await start(name, build, settings, skew=lambda: self.clock.offset_ms)
        self.services[name] = running
        return running

    @staticmethod
    async def _send_home(worker: Worker, running: "asyncio.Task[None]") -> None:
        worker.stop()
        worker.stop()  # the second call stops without grace: running handlers do not matter any more
        await asyncio.wait({running}, timeout=PATIENCE_S)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def _stop_services(self) -> None:
        await asyncio.gather(*(running.stop() for running in self.services.values()))

    async def _remove_streams(self) -> None:
        async def remove(name: str) -> None:
            with contextlib.suppress(NotFoundError):
                await self.js.delete_stream(name)

        await asyncio.gather(*(remove(str(stream.name)) for stream in streams.definitions(self.root)))

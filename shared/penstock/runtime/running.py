"""Run a service inside an event loop: open its resources in order, and close them in reverse order."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nats.errors import Error as NatsError
from nats.js.errors import BadRequestError

from penstock import PenstockError, __version__
from penstock.bus import connection, streams
from penstock.bus.endpoints import Endpoints
from penstock.bus.hints import Hints
from penstock.bus.seal import Seal
from penstock.machine import Machine
from penstock.metrics_port import MetricsPort
from penstock.runtime import gauges, logging
from penstock.runtime.closing import Closing
from penstock.runtime.due import DueLoop
from penstock.runtime.health import Health
from penstock.runtime.logging import Log
from penstock.runtime.loops import keep, renew_key, share, watch_streams
from penstock.runtime.membership import Membership
from penstock.runtime.metrics import Metrics
from penstock.runtime.retrying import retrying
from penstock.runtime.server_check import check_nats, check_valkey
from penstock.runtime.service import Build, Context, Service, Tasks
from penstock.runtime.settings import Settings
from penstock.runtime.wakes import Wakes
from penstock.store.wire import ReplyError

LISTEN_S: Final = 0.2
"""Seconds after which a new instance knows the others: they answer its first heartbeat at once."""
VALKEY_S: Final = 5.0
"""Seconds after which a call that Valkey has not answered fails as `valkey_unavailable`, before its caller gives up."""


def _retryable(error: Exception) -> bool:
    return isinstance(error, PenstockError) and error.retryable


class Running:
    """A running service, as `start` returns it."""

    def __init__(self, name: str, settings: Settings, *, whole_process: bool = False) -> None:
        self.name = name
        self.settings = settings
        self._whole_process = whole_process
        self.log: Log = logging.logger(name, settings.instance)
        self.health = Health(self.log)
        self.metrics = Metrics(name, settings.instance, __version__, whole_process=whole_process)
        self.context: Context
        self.service: Service
        self.endpoints: Endpoints
        self._port = MetricsPort(self.metrics.exposition, self.health.missing)
        self._closing = Closing(settings.drain_timeout_ms / 1000, self.log)
        self._sharing = asyncio.Event()

    @property
    def metrics_url(self) -> str:
        return self._port.url

    async def stop(self) -> None:
        """Stop taking requests, let running ones finish within the drain timeout, then disconnect."""
        self.health.drain()
        await self._closing.run()

    async def open(self, build: Build, skew: Callable[[], int] | None) -> None:
        """Start the service step by step. Each step registers its undo step; `stop` runs those in reverse order."""
        settings, name, log, health, metrics = self.settings, self.name, self.log, self.health, self.metrics
        await self._port.start(settings.metrics_host, settings.metrics_port)
        self._closing.add("closing the metrics port", self._port.stop)

        nats = await retrying(
            "NATS",
            lambda: connection.connect(
                settings.nats_url, f"penstock-{name} {settings.instance}", settings.nats_creds, wait=True
            ),
            log,
            passing=lambda error: False,  # `connect` retries by itself and raises only for wrong settings
        )

        self._closing.add("disconnecting from NATS", lambda: connection.leave(nats))
        health.set("nats", True)

        wakes: Wakes | None = None  # set below: it needs the due loop, which needs the state machine

        def on_hints(partition: int, hints: dict[str, Any]) -> None:
            if wakes is not None:
                wakes.route(partition, hints)

        valkey_url = settings.valkey_login()
        for warning in await retrying(
            "Valkey",
            lambda: check_valkey(valkey_url),
            log,
            passing=lambda error: isinstance(error, OSError | TimeoutError | ReplyError),
        ):
            if self._whole_process:  # a test with all services inside is not told six times
                log.warning(warning)
        machine = await retrying(
            "Valkey",
            lambda: Machine.connect(
                valkey_url,
                service=name,
                root=settings.root,
                acknowledged=settings.acknowledged,
                partitions=settings.partitions,
                limits=settings.limits(),
                on_hints=on_hints,
                observer=metrics.store_call,
                skew=skew,
                dev=settings.dev,
                timeout=VALKEY_S,
            ),
            log,
            passing=_retryable,
        )
        self._closing.add("disconnecting from Valkey", machine.close)
        health.set("valkey", True)
        health.set("library", True)

        js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]

        def passing(error: Exception) -> bool:
            final = isinstance(error, BadRequestError | streams.NoRoomError)
            return isinstance(error, NatsError | TimeoutError) and not final and not nats.is_closed

        async def make_streams() -> None:
            await check_nats(nats, js)
            await streams.ensure(js, settings.root, settings.stream_replicas, settings.stream_bounds())

        await retrying("JetStream", make_streams, log, passing)

        seal = Seal(await retrying("Valkey", machine.hint_key, log, passing=_retryable))
        hints = Hints(nats, settings.root, seal)
        membership = Membership(
            hints,
            name,
            settings.instance,
            settings.partitions,
            log,
            on_change=self._members_changed,
        )

        def on_condition(name: str, holds: bool) -> None:
            if name == "valkey":
                membership.set_able(holds)

        health.on_change.append(on_condition)
        due = DueLoop(
            machine,
            settings.partitions,
            log,
            sweep_ms=settings.sweep_ms,
            owned=membership.owned,
            clock=machine.clock,
        )
        wakes = Wakes(name, settings.root, nats, hints, membership, due, settings.sweep_ms, log)
        tasks = Tasks(log)
        self._closing.add("stopping background tasks", tasks.cancel)
        self.context = Context(
            settings=settings,
            nats=nats,
            js=js,
            machine=machine,
            hints=hints,
            due=due,
            log=log,
            instance=settings.instance,
            metrics=metrics,
            membership=membership,
            health=health,
            wakes=wakes,
            tasks=tasks,
        )
        service = self.service = build(self.context)
        if service.close is not None:
            self._closing.add("closing the service", service.close, patient=True)
        await self._serve(service)
        tasks.spawn(health.watch(nats, machine.ping, machine.store.heard_s))
        tasks.spawn(keep(lambda: renew_key(machine, seal), log))

    async def _serve(self, service: Service) -> None:
        """Start the service's hints, membership, due work, loops, consumers and endpoints."""
        context, settings = self.context, self.settings
        endpoints = self.endpoints = Endpoints(
            context.nats,
            self.name,
            service.endpoints,
            root=settings.root,
            instance=settings.instance,
            max_payload_bytes=settings.max_payload_bytes,
            observer=self.metrics.request,
            reply_prefixes=[each for each in settings.reply_prefixes.split(",") if each],
            missing=self.health.missing,
        )
        gauges.watch(context, service, endpoints)
        await context.wakes.start(due=service.due)

        async def stop_wakes() -> None:
            context.wakes.stop()

        self._closing.add("sending the last hints", stop_wakes)
        await context.membership.start()
        self._closing.add("saying goodbye", context.membership.stop)
        if service.due:
            context.due.start()
            self.health.on_back.append(context.due.rebalance)
            self._closing.add("stopping due work", context.due.stop, patient=True)
        if service.start is not None:
            await service.start()
        loops = Tasks(self.log)
        for loop in service.background:
            loops.spawn(keep(loop, self.log))
        self._closing.add("stopping background loops", loops.cancel, patient=True)
        for consumer in service.consumers:
            # The instance that takes an ordered consumer's messages is chosen once the other instances are known.
            await consumer.start(
                context.nats,
                settings.root,
                settings.stream_replicas,
                settings.stream_bounds(),
                taking=not consumer.in_order,
            )
            self._closing.add("stopping a consumer", consumer.stop, patient=True)
        if service.consumers:
            loops.spawn(keep(lambda: watch_streams(context, service), self.log))
        await endpoints.start()

        async def drain() -> None:
            await endpoints.stop_taking()
            if service.drain is not None:
                await service.drain()
            await endpoints.finish(self._closing.left_s())

        self._closing.add("draining requests", drain, patient=True)
        sharing = Tasks(self.log)
        sharing.spawn(keep(lambda: share(context, service, endpoints, self._sharing), self.log))
        self._closing.add("keeping its share of requests", sharing.cancel)
        if any(consumer.in_order for consumer in service.consumers):
            asyncio.get_running_loop().call_later(LISTEN_S, self._sharing.set)
        self.health.set("endpoints", True)

    def _members_changed(self) -> None:
        self.context.due.rebalance()
        self._sharing.set()


async def start(
    name: str,
    build: Build,
    settings: Settings | None = None,
    *,
    skew: Callable[[], int] | None = None,
    whole_process: bool = False,
) -> Running:
    """Start a service and return it once it is ready; `await running.stop()` ends it.

    Wait for NATS and Valkey for as long as it takes. `skew` returns milliseconds to add to Valkey's clock, so
    that tests can move time. Raise errors that waiting does not cure: a wrong setting, another library build.
    """
    running = Running(name, settings or Settings.from_env(), whole_process=whole_process)
    try:
        await running.open(build, skew)
    except BaseException:
        await running.stop()
        raise
    return running

"""The process `penstock-gateway`: its listening socket, signals, ready file and exit code."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final

import uvicorn
from nats.errors import Error as NatsError

from penstock import PenstockError, __version__
from penstock.bus.connection import Connection, connect, leave
from penstock.files import write_whole
from penstock.metrics_port import MetricsPort
from penstock_gateway.app import build
from penstock_gateway.gateway import Gateway
from penstock_gateway.settings import Settings
from penstock_gateway.tokens import Tokens, TokensError

log: Final = logging.getLogger("penstock.gateway")

LOOK_S: Final = 1.0
"""Seconds between two looks at the tokens file."""
STUCK_MS: Final = 30_000
"""Milliseconds after which the kernel gives up a connection whose client takes nothing of what is sent to it."""
MOST_CONNECTIONS: Final = 2000
LONGEST_HEAD: Final = 32_768


class Server(uvicorn.Server):
    """uvicorn without its own handling of signals, which would end the process by the same signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def live(settings: Settings) -> int:
    """Run the gateway until SIGTERM or SIGINT, or until NATS is lost for good. Return the exit code."""
    gateway = Gateway(settings)
    port = MetricsPort(gateway.metrics.exposition, gateway.missing)
    try:
        gateway.tokens.load()
        listening = listen(settings.host, settings.port)
        await port.start(settings.metrics_host, settings.metrics_port)
    except (TokensError, OSError) as error:
        log.error("cannot start", extra={"reason": str(error)})
        return 1
    app, events = build(gateway)
    server = Server(
        uvicorn.Config(
            app,
            http="h11",  # it bounds the size of a request's head
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # it would show paths, and with them tokens
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            timeout_graceful_shutdown=settings.drain_timeout_ms // 1000 + 1,
        )
    )
    stop = _on_signals(gateway.tokens)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    watching = asyncio.create_task(_watch(gateway.tokens))
    facts = {"url": address_of(listening, settings.host), "metrics_url": port.url, "pid": os.getpid()}
    running = asyncio.create_task(_run(gateway, facts))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    code = 0 if stop.is_set() else 1
    gateway.draining = True
    _tell(settings.ready_file, None)
    events.drain()
    server.should_exit = True
    watching.cancel()
    stopping.cancel()
    await asyncio.wait({serving})
    while not running.done():  # nats-py's asyncio.wait_for (3.11) may swallow a cancellation
        running.cancel()
        await asyncio.wait({running}, timeout=0.1)
    await port.stop()
    log.info("stopped")
    return code


async def _run(gateway: Gateway, facts: dict[str, object]) -> None:
    """Connect to NATS, however long that takes, and say that the gateway is ready. Return when NATS is lost.

    facts: about this process, for the log and the ready file.
    """
    settings = gateway.settings
    nats: Connection | None = None
    try:
        nats = await connect(settings.nats_url, "penstock-gateway", settings.nats_creds, wait=True)
        gateway.connected(nats)
        _tell(settings.ready_file, {"service": "gateway", **facts})
        log.info("ready", extra={**facts, "version": __version__})
        await nats.closed.wait()
        log.error("NATS is lost; ending, to be started again", extra={"reason": nats.why_closed})
    except (PenstockError, NatsError, OSError) as error:
        log.error("cannot start", extra={"reason": str(error)})
    except Exception:
        log.exception("cannot start")
    finally:
        if nats is not None:
            await leave(nats)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raise OSError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """Return the URL under which this machine reaches the socket."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where to look from here
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}"


async def _watch(tokens: Tokens) -> None:
    """Read the tokens file again when it changes. While the file is not fit, the tokens before it hold."""
    while True:
        await asyncio.sleep(LOOK_S)
        _reload(tokens, always=False)


def _reload(tokens: Tokens, *, always: bool) -> None:
    try:
        if always:
            tokens.load()
        elif not tokens.load_if_changed():
            return
        log.info("read the tokens file again")
    except TokensError as error:
        log.error("the tokens file cannot be used; the tokens before hold", extra={"reason": str(error)})


def _on_signals(tokens: Tokens) -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; the second ends the process. SIGHUP reads the tokens."""
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stopping", extra={"signal": number.name})
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(tokens, always=True))
    return stop


def _tell(ready_file: str | None, facts: dict[str, object] | None) -> None:
    """Write the ready file, or remove it for None. A disk that is full is told of, and stops nothing."""
    if not ready_file:
        return
    try:
        if facts is None:
            Path(ready_file).unlink(missing_ok=True)
        else:
            write_whole(Path(ready_file), json.dumps(facts))
    except OSError as error:
        log.warning("the ready file cannot be written", extra={"file": ready_file, "reason": str(error)})

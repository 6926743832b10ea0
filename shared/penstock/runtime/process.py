"""Run a service as a process: settings from the environment, signals, the ready file, the exit code."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nats.errors import Error as NatsError

from penstock import PenstockError, __version__
from penstock.collector import collect_rarely
from penstock.files import write_whole
from penstock.machine import DeploymentError
from penstock.runtime import logging
from penstock.runtime.logging import Log
from penstock.runtime.running import Running, start
from penstock.runtime.server_check import UnfitServerError
from penstock.runtime.service import Build
from penstock.runtime.settings import Settings, SettingsError, help_text
from penstock.store import LibraryError
from penstock.throttle import Throttle

READY_FILE: Final = "PENSTOCK_READY_FILE"
"""Environment variable with the path of the ready file: JSON that a supervisor reads once the service is ready."""
REFUSALS: Final = (
    PenstockError,
    DeploymentError,
    LibraryError,
    SettingsError,
    UnfitServerError,
    OSError,
    NatsError,
)
"""What `start` raises for a reason outside of the service, told in one line. Any other exception is a bug."""
TELL_AGAIN_S: Final = 1.0
COLLECT_AFTER: Final = 50_000
"""Containers that begin a garbage collection (`collect_rarely`)."""


def run(name: str, build: Build) -> None:
    """Run the service until SIGTERM or SIGINT, with settings from the environment. Exit the process; never return."""
    settings = _settings(name)
    logging.configure(name, settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_live(name, build, settings))
    sys.exit(code)


def _settings(name: str) -> Settings:
    parser = argparse.ArgumentParser(
        prog=f"penstock-{name}",
        description=f"Penstock's {name} service. Runs until SIGTERM.",
        epilog="settings, from the environment [default]:\n" + help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    parser.parse_args()
    try:
        return Settings.from_env()
    except SettingsError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # uvloop does not support Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _live(name: str, build: Build, settings: Settings) -> int:
    """Start the service, run it until a signal or until NATS is lost, and return the exit code."""
    log = logging.logger(name, settings.instance)
    ready_file = os.environ.get(READY_FILE)
    _tell(ready_file, None)
    stop = _on_signals(log)
    starting = asyncio.create_task(start(name, build, settings, whole_process=True))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    while not starting.done():  # nats-py's asyncio.wait_for (3.11) may swallow a cancellation
        starting.cancel()
        await asyncio.wait({starting}, timeout=0.1)
    try:
        running = await starting
    except asyncio.CancelledError:
        log.info("stopped before it was ready")
        return 0
    except REFUSALS as error:
        log.error("cannot start", reason=str(error) or repr(error))
        return 1
    except Exception:
        log.exception("cannot start")
        return 1
    collect_rarely(COLLECT_AFTER)
    log.info("ready", metrics_url=running.metrics_url, pid=os.getpid(), version=__version__)
    telling = asyncio.create_task(_tell_when_possible(ready_file, running, log))
    nats = running.context.nats
    closed = asyncio.create_task(nats.closed.wait())
    await asyncio.wait({stopping, closed}, return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    _tell(ready_file, None)
    if not stop.is_set():  # the NATS client is closed for good: only a new process can reconnect
        log.error("NATS is lost; ending, to be started again", reason=nats.why_closed)
        return 1
    await running.stop()
    log.info("stopped")
    return 0


def _on_signals(log: Log) -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets. The second signal ends the process at once."""
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


async def _tell_when_possible(ready_file: str | None, running: Running, log: Log) -> None:
    """Write the ready file, and retry until that succeeds: a full disk must not stop the service."""
    complaints = Throttle()
    while True:
        try:
            _tell(ready_file, running)
            return
        except OSError as error:
            if complaints.passes():
                log.warning(
                    "the ready file cannot be written; trying again", file=ready_file, reason=str(error)
                )
        await asyncio.sleep(TELL_AGAIN_S)


def _tell(ready_file: str | None, running: Running | None) -> None:
    """Write the ready file for a running service, or remove the file for None. Readers never see half a file."""
    if not ready_file:
        return
    path = Path(ready_file)
    if running is None:
        path.unlink(missing_ok=True)
        return
    facts = {
        "service": running.name,
        "instance": running.settings.instance,
        "pid": os.getpid(),
        "metrics_url": running.metrics_url,
    }
    write_whole(path, json.dumps(facts))

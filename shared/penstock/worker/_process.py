"""The process that a worker runs in: its event loop, its signals, its exit, and the worker id named after it."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, NoReturn

from penstock.collector import collect_rarely

COLLECT_AFTER: Final = 10_000
"""Containers that begin a garbage collection: few enough for handlers that leave large cycles behind."""


def run_as_process(live: Coroutine[Any, Any, int]) -> None:
    """Run a worker to its end, with uvloop if it is installed. Raise `SystemExit` if it returns another code than 0.

    The process is the worker's alone, so that the garbage collector may rest: it took a fifth of a busy worker's time.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        from uvloop import run
    except ImportError:
        run = asyncio.run
    collect_rarely(COLLECT_AFTER)
    if code := run(live):
        sys.exit(code)


def exit_at_once(code: int) -> NoReturn:
    """End the process now. `sys.exit` would wait for its threads."""
    logging.shutdown()
    os._exit(code)


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Generator[None]:
    """Call `stop` on SIGTERM and SIGINT, where this thread may install signal handlers."""
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def new_worker_id() -> str:
    """Return an id that no other worker has: host, process id and a random part."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "worker"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"

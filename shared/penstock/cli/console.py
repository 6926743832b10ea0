"""`penstock console`: serve the console alone, for a NATS that speaks WebSocket."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import ShellArgument
from penstock.metrics_port import MetricsPort


async def console(
    *,
    nats_ws: str,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    secured: bool = False,
    shell: ShellArgument,
) -> None:
    """Serve the console until SIGTERM or Ctrl-C. `penstock up` does it by itself.

    The page talks to NATS itself, as the user who looks at it; this server hands out files only. With
    PENSTOCK_METRICS_PORT it answers /healthz there, on PENSTOCK_METRICS_HOST, as services do.

    Parameters
    ----------
    nats_ws
        NATS' WebSocket as browsers reach it: ws://… or wss://… Its configuration must allow this page's origin.
    host
        The address to listen on [127.0.0.1].
    port
        The port to listen on [any free one].
    secured
        The deployment is one of `penstock secure`: ask users for their identity file.
    """
    from penstock.console import server

    if not nats_ws.startswith(("ws://", "wss://")) or any(each in nats_ws for each in " ;,'\""):
        raise UsageProblem("--nats-ws takes one URL that begins with ws:// or wss://")
    if why := server.missing():
        raise Problem(f"there is no console: {why}")
    with server.listen(host, port) as listening:
        shown = f"http://{host}:{listening.getsockname()[1]}"
        if shell.json:
            shell.show({"console_url": shown})
        else:
            shell.console.print(f"The console is {shown}")
        config = server.Config(nats_ws=nats_ws, root=shell.root, secured=secured)
        async with _health():
            await server.serve(config, listening)


@asynccontextmanager
async def _health() -> AsyncGenerator[None]:
    """Serve the metrics port meanwhile, if the environment names one. There are no metrics. Raise Problem."""
    asked = os.environ.get("PENSTOCK_METRICS_PORT", "")
    if not asked:
        yield
        return
    health = MetricsPort(lambda: b"", lambda: ())
    try:
        await health.start(os.environ.get("PENSTOCK_METRICS_HOST") or "127.0.0.1", int(asked))
    except (OSError, ValueError, OverflowError) as error:
        raise Problem(f"cannot listen on PENSTOCK_METRICS_PORT {asked}: {error}") from None
    try:
        yield
    finally:
        await health.stop()

"""`penstock worker` runs a worker; `penstock workers …` lists and drains the registered workers."""

import importlib
import sys
import traceback
from pathlib import Path
from typing import Literal, cast

from cyclopts import App
from rich.markup import escape

from penstock.cli.output import clock, listing, styled
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import DEFAULT_ROOT, DEFAULT_URLS, Shell, ShellArgument
from penstock.messages.common import Page
from penstock.messages.workers import WorkerInfo
from penstock.words import some
from penstock.worker import Worker

app = App(name="workers", help="Show workers, and tell one to stop taking work.")


def worker(target: str, /, *, shell: ShellArgument) -> None:
    """Run the worker of a Python module until SIGTERM or Ctrl-C.

    penstock worker reports.jobs:worker

    The worker connects to --nats or its variable, else to the URL it was created with, else to the
    `penstock up` that runs in this directory.

    Parameters
    ----------
    target
        MODULE:NAME of a `penstock.Worker`; NAME may be left out when it is `worker`. Modules are also looked
        for in this directory.
    """
    found = load(target)
    found.at(
        url_for(shell, found),
        root=root_for(shell, found),
        credentials=shell.credentials or found.credentials,
        worker_id=found.worker_id,
    ).main()


def url_for(shell: Shell, worker: Worker) -> str:
    """Return the NATS URL: the one given to this command, else the worker's own, else the default."""
    if shell.nats or worker.url in DEFAULT_URLS:
        return shell.nats_url()
    return worker.url


def root_for(shell: Shell, worker: Worker) -> str:
    """Return the root, chosen as in `url_for`. The root of this directory's `penstock up` goes with its URL only."""
    if shell.named_root or (worker.root == DEFAULT_ROOT and url_for(shell, worker) == shell.nats_url()):
        return shell.root
    return worker.root


def load(target: str) -> Worker:
    """Import the worker that `module:name` names. Raise `UsageProblem` if there is none."""
    module_name, _, name = target.partition(":")
    name = name or "worker"
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "\0"):
            raise UsageProblem(f"there is no module {module_name!r}, here or in Python's path") from None
        traceback.print_exc()  # the user's own code fails: show where
        raise Problem(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if isinstance(found, Worker):
        return found
    names = [each for each, value in vars(module).items() if isinstance(value, Worker)]
    hint = f"; it has {', '.join(names)}" if names else ""
    raise UsageProblem(f"{module_name} has no penstock.Worker named {name!r}{hint}")


@app.command(name="list")
async def list_(
    *,
    lane: str | None = None,
    status: Literal["active", "draining", "lost"] | None = None,
    limit: int = 100,
    cursor: str | None = None,
    shell: ShellArgument,
) -> None:
    """List workers; all filters must hold.

    Parameters
    ----------
    lane
        Only workers that take work of this lane.
    status
        Only workers with this status.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"lane": lane, "status": status, "limit": limit, "cursor": cursor}
    page = cast(Page[WorkerInfo], await shell.ask("worker.list", request))
    shell.show_page(
        page,
        listing(
            ("worker", "status", "held", "lag", "seen", "version", "lanes", "kinds"), map(_row, page.items)
        ),
    )


@app.command
async def drain(worker_id: str, /, *, shell: ShellArgument) -> None:
    """Tell a worker to finish the tasks it has, and to ask for no more.

    Parameters
    ----------
    worker_id
        The worker's id, as `penstock workers list` shows it.
    """
    info = cast(WorkerInfo, await shell.ask("worker.drain", {"worker_id": worker_id}))
    shell.show(info, styled(info.status))


def _row(info: WorkerInfo) -> tuple[str, ...]:
    able = f" [dim]({escape(' '.join(info.capabilities))})[/]" if info.capabilities else ""
    return (
        escape(info.worker_id),
        styled(info.status),
        ("" if info.held is None else str(info.held)) + ("" if info.slots is None else f"/{info.slots}"),
        "" if info.loop_lag_ms is None else f"{info.loop_lag_ms} ms",
        clock(info.seen_at),
        escape(info.version),
        escape(" ".join(info.lanes)) + able,
        "all" if info.kinds is None else escape(some(info.kinds, len(info.kinds), " ")),
    )

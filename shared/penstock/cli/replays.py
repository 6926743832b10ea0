"""`penstock replay-check`: whether new code of durable functions fits the executions that there are."""

import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape

from penstock import errors
from penstock.cli.output import emit_json, listing, styled
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import ShellArgument
from penstock.cli.workers import load, root_for, url_for
from penstock.client import Client
from penstock.messages.common import Record
from penstock.states import TERMINAL, ExecutionState
from penstock.worker import Worker
from penstock.worker._hooks import Hooks
from penstock.worker.durable.replay import Replay, replay

Listed = Annotated[list[str], Parameter(negative="")]


async def replay_check(
    target: str,
    /,
    *,
    id: Listed = [],  # noqa: B006 - cyclopts copies it
    kind: Listed = [],  # noqa: B006 - cyclopts copies it
    sample: Annotated[int, Parameter(validator=Number(gte=1, lte=100_000))] = 200,
    lifespan: bool = False,
    shell: ShellArgument,
) -> None:
    """Run this code's handlers over the journals that are stored, and tell what they would do otherwise.

    penstock replay-check shop.orders:worker --kind order

    Steps, waits and children return what is stored. No step is run, nothing is written; code between the calls does
    run. Told are entries that the code does not ask for any more, steps whose function or arguments have changed, calls
    that are new before the end of a journal, and another outcome of what has ended. A new call where an execution in
    flight goes on is no difference. Exit code 0: no execution differs; 1: some do, or could not be checked; 2: the
    command was called wrongly.

    Parameters
    ----------
    target
        MODULE:NAME of a `penstock.Worker`; NAME may be left out when it is `worker`. Modules are also looked
        for in this directory.
    id
        Check this execution; may be given several times. Without, a sample is checked.
    kind
        Executions of this kind only; may be given several times. Without, all kinds of the worker.
    sample
        At most so many executions of each kind [200]: the newest in flight, then the newest that have ended.
    lifespan
        Enter the worker's lifespan, so that handlers find their task.context. Without, that is None.
    """
    worker = load(target)
    handlers = worker._handlers  # pyright: ignore[reportPrivateUsage]
    unknown = [each for each in kind if each not in handlers]
    if unknown:
        raise UsageProblem(f"{target} has no handler for {', '.join(unknown)}: it has {', '.join(handlers)}")
    logging.getLogger("penstock.worker").setLevel(logging.CRITICAL)
    found: list[Replay] = []
    hooks = worker._hooks  # pyright: ignore[reportPrivateUsage]
    client = await Client.connect(
        url_for(shell, worker),
        shell.login or worker.credentials,
        root=root_for(shell, worker),
        timeout=shell.timeout,
        name="penstock-cli",
        codec=worker._codec,  # pyright: ignore[reportPrivateUsage]
    )
    try:
        async with hooks.open() if lifespan else contextlib.nullcontext() as context:
            chosen = _named(client, id) if id else _sample(client, kind or sorted(handlers), sample)
            async for record in chosen:
                if not kind or record.kind in kind:
                    found.append(await _checked(client, worker, hooks, record, context))
    finally:
        await client.close()
    if id and not found:
        raise UsageProblem("none of these executions is of --kind")
    _show(shell, found)
    if any(each.differs for each in found):
        sys.exit(1)


async def _named(client: Client, ids: list[str]) -> AsyncIterator[Record]:
    for each in dict.fromkeys(ids):
        yield await client.get(each)


async def _sample(client: Client, kinds: list[str], most: int) -> AsyncIterator[Record]:
    """Yield executions that have a journal: of each kind those in flight first, and the newest of them first."""
    ended = sorted(TERMINAL)
    alive = [state for state in ExecutionState.__args__ if state not in TERMINAL]
    for kind in kinds:
        left = most
        for states in (alive, ended):
            async for row in client.search(kind=kind, states=states):
                if not left:
                    break
                with contextlib.suppress(errors.ExecutionNotFound):  # it has left meanwhile
                    record = await client.get(row.execution_id)
                    if record.journal is not None:
                        left -= 1
                        yield record


async def _checked(client: Client, worker: Worker, hooks: Hooks, record: Record, context: Any) -> Replay:
    handler = worker._handlers.get(record.kind)  # pyright: ignore[reportPrivateUsage]
    told = Replay(execution_id=record.execution_id, kind=record.kind, state=record.state)
    if handler is None:
        told.problem = f"the worker has no handler for kind {record.kind}"
        return told
    accepts = handler.options.accepts
    if accepts and record.version is not None and record.version not in accepts:
        told.skipped = f"this code does not take version {record.version}"
        return told
    journal = [entry async for entry in client.journals.read(record.execution_id)]
    return await replay(handler, record, journal, context=context, hooks=hooks)


def _show(shell: ShellArgument, found: list[Replay]) -> None:
    differ = sum(each.differs for each in found)
    skipped = sum(each.skipped is not None for each in found)
    if shell.json:
        items = [msgspec.to_builtins(each) | {"differs": each.differs} for each in found]
        emit_json({"items": items, "checked": len(found) - skipped, "skipped": skipped, "differ": differ})
        return
    rows = (
        (
            each.execution_id,
            escape(each.kind),
            styled(each.state),
            "[red]differs[/]" if each.differs else "skipped" if each.skipped else "[green]fits[/]",
            escape(str(each)),
        )
        for each in found
    )
    shell.console.print(listing(("id", "kind", "state", "", "what"), rows))
    counted = f"{len(found) - skipped} executions checked, {differ} differ"
    shell.console.print(counted + (f", {skipped} skipped" if skipped else ""))

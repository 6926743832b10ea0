"""Durable functions whose worker is killed: a real process, SIGKILL, and another worker that goes on."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from penstock import Client, ExecutionFailed
from running_penstock import WAIT_S, RunningPenstock

WORKER = """
import asyncio, os, sys
from pathlib import Path
from penstock import Retries, StepInDoubt, Task, Worker

url, root, folder, die = sys.argv[1:]
worker = Worker(url, root=root, lease_ttl=30.0)

def effect(what: str) -> str:
    with (Path(folder) / what).open("a") as file:
        file.write("x")
    if what == die:
        os.kill(os.getpid(), 9)
    return what

@worker.handler("order")
async def order(task: Task) -> list[str]:
    done = [await task.step("one", effect, "one")]
    try:
        done.append(await task.step("once", effect, "once", once=True))
    except StepInDoubt as error:
        done.append("in doubt: " + error.name)
    done += await task.parallel(task.step("a", effect, "a"), task.step("b", effect, "b"))
    return done

worker.main()
"""


def effects(folder: Path) -> dict[str, int]:
    """Return how often each effect has happened."""
    return {path.name: len(path.read_text()) for path in folder.iterdir()}


async def test_another_worker_goes_on_where_one_was_killed(penstock: RunningPenstock, tmp_path: Path) -> None:
    async def start(die: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, penstock.url, penstock.root, str(tmp_path), die
        )

    async with await Client.connect(penstock.url, root=penstock.root) as client:
        run = await client.submit("order")
        killed = await start("once")
        assert await asyncio.wait_for(killed.wait(), WAIT_S) == -signal.SIGKILL
        await penstock.loses_its_lease(run.execution_id)
        killed = await start("b")
        assert await asyncio.wait_for(killed.wait(), WAIT_S) == -signal.SIGKILL
        await penstock.loses_its_lease(run.execution_id)
        last = await start("nothing")
        try:
            assert await run.result(timeout=WAIT_S) == ["one", "in doubt: once", "a", "b"]
        finally:
            last.terminate()
            await asyncio.wait_for(last.wait(), WAIT_S)
    times = effects(tmp_path)
    assert times["one"] == times["once"] == 1
    assert times["b"] == 2  # it died between effect and journal
    assert times["a"] in (1, 2)


UNDOING = """
import os, sys
from pathlib import Path
from penstock import Fail, Retries, Task, Worker

url, root, folder, die = sys.argv[1:]
worker = Worker(url, root=root, lease_ttl=30.0)

def effect(what: str) -> str:
    with (Path(folder) / what).open("a") as file:
        file.write("x")
    if what == die:
        os.kill(os.getpid(), 9)
    if what == "ship":
        raise Fail("no ship", "no_ship")
    return what

@worker.handler("child")
def child() -> str:
    return effect("child")

@worker.handler("order")
async def order(task: Task) -> None:
    handle = await task.spawn("child", "child")
    for what in ("a", "b", "c"):
        task.compensate("undo", effect, "undo-" + what, key=what)
        await task.step("do", effect, what, key=what)
    assert await handle.result() == "child"
    await task.step("ship", effect, "ship")

worker.main()
"""


async def test_compensations_go_on_where_the_worker_was_killed(
    penstock: RunningPenstock, tmp_path: Path
) -> None:
    """Killed in the middle of the steps, with a child under way, and twice while it undoes them."""

    async def start(die: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", UNDOING, penstock.url, penstock.root, str(tmp_path), die
        )

    async with await Client.connect(penstock.url, root=penstock.root) as client:
        run = await client.submit("order")
        for die in ("b", "undo-b", "undo-a"):
            killed = await start(die)
            assert await asyncio.wait_for(killed.wait(), WAIT_S) == -signal.SIGKILL
            await penstock.loses_its_lease(run.execution_id)
        last = await start("nothing")
        try:
            with pytest.raises(ExecutionFailed) as caught:
                await run.result(timeout=WAIT_S)
        finally:
            last.terminate()
            await asyncio.wait_for(last.wait(), WAIT_S)
        assert caught.value.category == "no_ship"
        children = (await penstock.request("execution.list", {"kind": "child"}))["items"]
    assert len(children) == 1
    times = effects(tmp_path)
    # Once more where it died between effect and journal; once elsewhere, done and undone.
    assert times == {"a": 1, "b": 2, "c": 1, "ship": 1, "child": times["child"]} | {
        "undo-c": 1,
        "undo-b": 2,
        "undo-a": 2,
    }
    assert times["child"] in (1, 2)

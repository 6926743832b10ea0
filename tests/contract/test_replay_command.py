"""`penstock replay-check` on executions that a worker has run: old code fits, of new code the differences are told."""

import os
from datetime import timedelta
from pathlib import Path

import commands
from penstock import Worker
from running_penstock import WAIT_S, RunningPenstock

CODE = """
from datetime import timedelta
from penstock import Task, Worker

worker = Worker()

def step(n: int) -> int:
    if {forbidden}:
        raise SystemExit("a step was run")
    return n

@worker.handler("order")
async def order(task: Task, sleeps: bool) -> list[int]:
    done = [await task.step("a", step, 1)]
    {more}
    if sleeps:
        await task.sleep("wait", timedelta(hours=1))
    done.append(await task.step("b", step, 2))
    return done

@worker.handler("plain")
async def plain() -> None: ...
"""


async def test_the_command(penstock: RunningPenstock, tmp_path: Path) -> None:
    for name, forbidden, more in (
        ("old", "False", ""),
        ("same", "True", ""),
        ("new", "True", 'await task.step("new", step, 3)'),
    ):
        (tmp_path / f"{name}.py").write_text(CODE.format(forbidden=forbidden, more=more))
    names: dict[str, Worker] = {}
    exec((tmp_path / "old.py").read_text(), names)
    await penstock.run_worker(names["worker"])
    client = await penstock.client()
    ended = await client.submit("order", {"sleeps": False})
    assert await ended.result(timeout=WAIT_S) == [1, 2]
    asleep = await client.submit("order", {"sleeps": True})
    await penstock.wait_for(asleep, "suspended")
    await (await client.submit("plain")).result(timeout=WAIT_S)
    before = [(await run.get()).seq for run in (ended, asleep)]
    env = {**commands.told(penstock), "PYTHONPATH": os.pathsep.join([str(tmp_path)])}

    async def check(*arguments: str) -> commands.Said:
        return await commands.penstock("replay-check", *arguments, cwd=tmp_path, **env)

    fits = await check("same", "--json")
    assert (fits.code, fits.err) == (0, "")
    assert (fits.json["checked"], fits.json["differ"]) == (2, 0)
    assert [(each["execution_id"], each["goes_on"]) for each in fits.json["items"]] == [
        (asleep.execution_id, ["sleep:wait"]),
        (ended.execution_id, []),
    ]
    assert (await check("same:worker", "--sample", "1", "--json")).json["checked"] == 1
    differs = await check("new", "--kind", "order", "--id", asleep.execution_id, "--id", ended.execution_id)
    assert differs.code == 1 and "2 executions checked, 2 differ" in differs.out
    assert "new: step:new; not reached: sleep:wait" in differs.out
    # Nothing was written, and no step was run.
    assert [(await run.get()).seq for run in (ended, asleep)] == before
    assert (await check("same", "--kind", "other")).code == 2
    assert (await check("same:none")).code == 2
    wrong = await check("same", "--id", "nothing")
    assert wrong.code == 1 and "Traceback" not in wrong.err
    penstock.move_clock(round(timedelta(hours=1) / timedelta(milliseconds=1)))
    assert await asleep.result(timeout=WAIT_S) == [1, 2]

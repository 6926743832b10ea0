"""A worker process for chaos tests of durable functions. Each effect of a step is a line of the file `EFFECTS`."""

import asyncio
import os
from pathlib import Path

from penstock import Task, Worker

EFFECTS = Path(os.environ["EFFECTS"])
worker = Worker(os.environ["PENSTOCK_NATS_URL"], concurrency=64, lease_ttl=5.0, park=1.0)


async def effect(of: str, what: str) -> str:
    with EFFECTS.open("a") as file:  # noqa: ASYNC230 - one short line is one write, which no kill can cut
        file.write(f"{of} {what}\n")
    await asyncio.sleep(0.01)  # so that some are killed between the effect and the journal
    return what


@worker.handler("durable.child")
async def child(task: Task, of: str) -> str:
    return await task.step("child", effect, of, "child")


@worker.handler("durable.all", keep_warm=0)
async def everything(task: Task) -> list[str]:
    of = task.execution_id
    done = [await task.step("begin", effect, of, "begin")]
    done += await task.parallel(*(task.step("side", effect, of, each, key=each) for each in "abc"))
    await task.sleep("nap", 0.5)
    done.append(await task.step("after-nap", effect, of, "after-nap"))
    await task.wait_signal("go")
    done.append(await task.step("after-signal", effect, of, "after-signal"))
    done.append(await task.child("child", "durable.child", {"of": of}, type=str))
    return done


if __name__ == "__main__":
    worker.main()

"""The threads of sync steps, which copies of one worker share."""

import asyncio
import threading

from penstock.worker.durable.run import StepThreads


async def test_a_copy_that_stops_leaves_the_steps_of_the_others() -> None:
    threads, began, end = StepThreads(1), threading.Event(), threading.Event()
    threads.open()
    threads.open()

    def first() -> str:
        began.set()
        end.wait(20)
        return "first"

    under_way = asyncio.create_task(threads.run(first))
    await asyncio.to_thread(began.wait, 20)
    queued = asyncio.create_task(threads.run(lambda: "queued"))
    await asyncio.sleep(0)
    threads.close()
    end.set()
    assert await asyncio.gather(under_way, queued) == ["first", "queued"]
    threads.close()
    threads.open()
    assert await threads.run(lambda: "again") == "again"
    threads.close()

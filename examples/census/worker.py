"""The census's worker: start as many as you like, wherever the same Python is, with

    PENSTOCK_NATS_URL=nats://localhost:4222 python -m census.worker

It knows NATS and nothing else: no store, no other worker, no order of things.
"""

import os
import warnings
from pathlib import Path

import msgspec
import nats

from census import analysis
from census.analysis import FileCensus, Totals
from census.flow import APPROVALS, LANE, Approval, Draft, Question
from penstock import Suspend, Task, Worker

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")
ROOT = analysis.stdlib_root()

# A short lease: when this process is killed, its work is somebody else's three seconds later.
worker = Worker(NATS_URL, lanes=[LANE], concurrency=4, lease_ttl=3.0)


@worker.handler("census.file")
def count(path: str) -> FileCensus:
    """Counts one file. Not async, so it runs in a thread."""
    return analysis.analyse((ROOT / path).read_bytes())


@worker.handler("census.merge")
def add_up(input: dict[str, FileCensus]) -> Totals:
    """The fan-in: its input is what all the edges handed on, path → census."""
    return analysis.merge(input)


@worker.handler("census.approve")
async def approve(task: Task, draft: Draft) -> Approval:
    """Asks a human, and gives its lease back until there is an answer.

    The handler runs twice: once to ask, and once more, here or in any other worker, when the signal came.
    """
    if not task.resumed:
        waitpoint = await task.create_waitpoint("approval", expires_in=600)
        text = f"{draft.totals.lines:,} lines in {draft.totals.files:,} files. Publish the report?"
        await ask_a_human(Question(text, waitpoint.waitpoint_id, waitpoint.token))
        # An answer that was quicker than this line is not lost: the waitpoint collects already.
        raise Suspend("approved", waitpoint=waitpoint, timeout=600)
    [signal, *_] = await task.resumed_by()
    return signal.payload_as(Approval)


@worker.handler("census.report")
def write(file: str, totals: Totals, approval: Approval) -> int:
    """Writes the report; doing so twice is as good as once."""
    part = Path(f"{file}.part")
    size = part.write_text(analysis.report(totals, approval.approved_by), encoding="utf-8")
    part.replace(file)
    return size


async def ask_a_human(question: Question) -> None:
    """What would be a mail or a chat message: here the demo listens, on a subject of its own."""
    connection = await nats.connect(NATS_URL)
    await connection.publish(APPROVALS, msgspec.json.encode(question))
    await connection.drain()


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the parser, about the code that it reads
    worker.main()

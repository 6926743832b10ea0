"""The census's worker. Start any number of them, on any machine with the same Python, with

    PENSTOCK_NATS_URL=nats://localhost:4222 python -m census.worker

A worker only needs NATS. It does not know the store, the other workers or the order of the flow.
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

# The short lease makes a killed worker's tasks go to another worker after three seconds.
worker = Worker(NATS_URL, lanes=[LANE], concurrency=4, lease_ttl=3.0)


@worker.handler("census.file")
def count(path: str) -> FileCensus:
    """Count one file. This function is not async, so it runs in a thread."""
    return analysis.analyse((ROOT / path).read_bytes())


@worker.handler("census.merge")
def add_up(input: dict[str, FileCensus]) -> Totals:
    """Add up all files, as the fan-in. The input has the result of each incoming edge, path → census."""
    return analysis.merge(input)


@worker.handler("census.approve")
async def approve(task: Task, draft: Draft) -> Approval:
    """Ask a human for approval, and give the lease back until the answer comes.

    The handler runs twice: first to ask, and again, in this or any other worker, after the signal has come.
    """
    if not task.resumed:
        waitpoint = await task.create_waitpoint("approval", expires_in=600)
        text = f"{draft.totals.lines:,} lines in {draft.totals.files:,} files. Publish the report?"
        await ask_a_human(Question(text, waitpoint.waitpoint_id, waitpoint.token))
        # An answer that comes before this line is not lost: the waitpoint already collects signals.
        raise Suspend("approved", waitpoint=waitpoint, timeout=600)
    [signal, *_] = await task.resumed_by()
    return signal.payload_as(Approval)


@worker.handler("census.report")
def write(file: str, totals: Totals, approval: Approval) -> int:
    """Write the report. Writing it twice does no harm."""
    part = Path(f"{file}.part")
    size = part.write_text(analysis.report(totals, approval.approved_by), encoding="utf-8")
    part.replace(file)
    return size


async def ask_a_human(question: Question) -> None:
    """Publish the question for the demo, on a NATS subject. A real worker would send a mail or a chat message."""
    connection = await nats.connect(NATS_URL)
    await connection.publish(APPROVALS, msgspec.json.encode(question))
    await connection.drain()


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # hide the parser's warnings about the files
    worker.main()

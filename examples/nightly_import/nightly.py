"""A nightly import as a durable function: a schedule starts it, and a child execution loads each of 1,000 files.

Run `penstock up` and then this: it sees to it that the schedule is there, and works. Run it twice, and two workers
share the files. Wherever one dies, another one goes on there. `python -m nightly_import.nightly 50` imports 50 files.
"""

import asyncio
import os
import sys
from datetime import timedelta

import msgspec

from penstock import Client, Fail, Retries, StepFailed, Task, Worker
from penstock.messages.schedules import Schedule

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")
ROOT = os.environ.get("PENSTOCK_ROOT", "penstock")

worker = Worker(NATS_URL, root=ROOT)


class Night(msgspec.Struct):
    source: str
    files: int


class Loaded(msgspec.Struct):
    """What became of a file: `rows` of it are loaded, or there was a `problem`."""

    name: str
    rows: int
    problem: str = ""


class Report(msgspec.Struct):
    files: int
    rows: int
    problems: dict[str, str]


# What these do belongs to your files and your database. A crash may repeat one of them: loading a file again must
# replace what was loaded, as an upsert does.


def list_files(night: Night) -> list[str]:
    return [f"{night.source}/{number:04}.csv" for number in range(night.files)]


def load(name: str) -> int:
    if name.endswith("13.csv"):
        raise Fail("the header is missing", "unreadable")
    return 1000


def publish(report: Report) -> None: ...


@worker.handler("import.file")
async def import_file(task: Task, name: str) -> Loaded:
    try:
        rows = await task.step("load", load, name, retry=Retries(5, backoff=2.0))
    except StepFailed as error:
        return Loaded(name, 0, error.reason)  # one bad file is a line in the report, and stops nobody
    return Loaded(name, rows)


@worker.handler("import.nightly", version="1")
async def nightly(task: Task, night: Night) -> Report:
    names = await task.step("list", list_files, night)
    loaded = await task.parallel(
        *(task.child("file", "import.file", {"name": name}, key=name, type=Loaded) for name in names)
    )
    problems = {each.name: each.problem for each in loaded if each.problem}
    report = Report(len(loaded), sum(each.rows for each in loaded), problems)
    await task.sleep("settle", timedelta(minutes=10))  # readers of yesterday's figures may finish
    await task.step("publish", publish, report)
    return report


async def plan(client: Client, files: int) -> Schedule:
    """Create the schedule, or return the one that is there."""
    night = Night("orders", files)
    return await client.schedules.create(
        "import.nightly", night, cron="0 3 * * *", timezone="Europe/Berlin", idempotency_key="nightly"
    )


async def main(files: int) -> None:
    async with await Client.connect(NATS_URL, root=ROOT) as client:
        await plan(client, files)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))

"""A census of Python's own standard library, run as a Penstock flow while things break around it.

    make demo                         or, from examples/:  python -m census.demo

1. `penstock up` starts NATS, Valkey and the six services; three workers take the work of one lane.
2. A managed flow counts every .py file, merges the counts, asks a human, and writes a report.
   On the way one worker is killed with SIGKILL, and so is one of the services.
3. Beside it a program that is no worker byte-compiles the same files, and a mirrored flow follows it.
4. A second census is cancelled midway.
5. All of it is checked: the totals against a plain loop, the audit trail, and how often each thing was done.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from asyncio.subprocess import Process
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
from nats.aio.msg import Msg
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from census import analysis
from census.analysis import Totals
from census.checks import Checks, check_cancelled, check_census, check_mirror, check_trail, ended
from census.flow import APPROVALS, NAMESPACE, Approval, Question, edges, members
from census.processes import Processes, Ready
from penstock import Client
from penstock.client import FlowRun
from penstock.messages.cancellation import FlowCancelled
from penstock.messages.flows import Flow
from penstock.states import FLOW_TERMINAL

WORKERS = 3
HUMAN = "Ada"
KILLED_SERVICE = "lease-keeper"  # this service handles every lease and every outcome
LONGEST_S = 170.0


class Demo:
    """The steps of the demo, and the state that they share."""

    def __init__(self, console: Console, processes: Processes, paths: list[str]) -> None:
        self.console = console
        self.processes = processes
        self.paths = paths
        self.root = analysis.stdlib_root()
        self.report_file = processes.folder / "census.md"
        self.bars = Progress(
            TextColumn("{task.description:<30}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self.ready: Ready
        self.client: Client

    async def run(self) -> list[str]:
        """Run the whole demo. Return the problems found: none, if all is well."""
        self.say("penstock up: NATS, Valkey and six services, each a process of its own")
        self.ready = await self.processes.start_penstock(timeout=60)
        async with await Client.connect(self.ready.nats_url, name="census-demo") as self.client:
            checks = Checks(self.console)
            with self.bars:
                await self.client.nats.subscribe(APPROVALS, cb=self.answer)
                workers = [await self.start_worker(number) for number in range(1, WORKERS + 1)]
                async with asyncio.TaskGroup() as side_by_side:
                    mirror = side_by_side.create_task(self.mirrored_flow())
                    census = side_by_side.create_task(self.census(workers[0]))
                first, mirrored = census.result(), mirror.result()
                second, answer, cancelled = await self.cancelled_census()
                totals = await self.direct()
            report = self.report_file.read_text(encoding="utf-8") if self.report_file.exists() else ""
            self.console.print(Markdown(report))
            self.console.rule("is all of it true?")
            checks.expect_equal("the killed worker died of SIGKILL", workers[0].returncode, -signal.SIGKILL)
            await check_census(checks, first, report, totals, HUMAN)
            await check_mirror(checks, *mirrored)
            await check_cancelled(checks, second, answer, cancelled)
            await check_trail(checks, self.client, first, second, cancelled)
            await self.verify_audit_chain(checks)
        return checks.problems

    def say(self, text: str) -> None:
        self.console.log(text, highlight=False)

    async def start_worker(self, number: int) -> Process:
        return await self.processes.start(
            f"worker-{number}", "census.worker", PENSTOCK_NATS_URL=self.ready.nats_url
        )

    async def create_census(self, goal: str) -> FlowRun:
        return await self.client.flows.create(
            goal,
            members=members(self.paths, str(self.report_file)),
            edges=edges(self.paths),
            namespace=NAMESPACE,
            controller_id="census-demo",
            owner="census",
        )

    async def census(self, victim: Process) -> FlowRun:
        """Run the first census, which must succeed although a worker and a service are killed."""
        flow = await self.create_census("count the standard library")
        await flow.start()
        self.say(f"census started: {len(flow.members):,} members")
        async with asyncio.TaskGroup() as side_by_side:
            side_by_side.create_task(self.follow(flow, "census", len(flow.members)))
            side_by_side.create_task(self.kill_worker(flow, victim))
            side_by_side.create_task(self.kill_service(flow))
        return flow

    async def kill_worker(self, flow: FlowRun, victim: Process) -> None:
        await self.reached(flow, 0.2)
        victim.kill()
        await victim.wait()
        self.say("worker-1 killed with SIGKILL; what it held goes to the others when its leases expire")

    async def kill_service(self, flow: FlowRun) -> None:
        """Kill a service. `penstock up` starts it again; workers and clients only notice slower replies."""
        await self.reached(flow, 0.5)
        before = await self.instance_of(KILLED_SERVICE)
        os.kill(self.ready.pids[KILLED_SERVICE], signal.SIGKILL)
        self.say(f"{KILLED_SERVICE} killed with SIGKILL")
        while True:
            if await self.instance_of(KILLED_SERVICE) not in (None, before):
                return self.say(f"{KILLED_SERVICE} is back")
            await asyncio.sleep(0.1)

    async def instance_of(self, service: str) -> str | None:
        """Return the id of the instance that answers a NATS micro ping for a service, or None if none answers."""
        try:
            reply = await self.client.nats.request(f"$SRV.PING.penstock-{service}", timeout=0.5)
        except Exception:
            return None
        return json.loads(reply.data)["id"]

    async def answer(self, message: Msg) -> None:
        """Act as the human: read the question, and publish a signal with the token that came with it."""
        question = msgspec.json.decode(message.data, type=Question)
        self.say(f"{HUMAN} is asked: “{question.text}” and approves")
        await self.client.nats.jetstream().publish(
            f"penstock.signal.{question.waitpoint_id}.approved",
            msgspec.json.encode(Approval(approved_by=HUMAN)),
            headers={"Penstock-Token": question.token, "Nats-Msg-Id": f"approval-{question.waitpoint_id}"},
        )

    async def mirrored_flow(self) -> tuple[FlowRun, dict[str, int]]:
        """Follow a program that Penstock does not run. Return its flow and the counts that the program printed."""
        program = await self.processes.start(
            "mirror", "census.mirror", self.ready.nats_url, str(len(self.paths)), talks=True
        )
        assert program.stdout is not None
        told = await program.stdout.readline()
        if not told:
            raise RuntimeError(f"the compiling program ended:\n{self.processes.log_tail('mirror')}")
        flow = self.client.flows.run(json.loads(told)["flow_id"])
        await self.follow(flow, "byte-compiler, mirrored", len(self.paths) + 1)
        return flow, json.loads(await program.stdout.readline())

    async def cancelled_census(self) -> tuple[FlowRun, FlowCancelled, Flow]:
        """Run a census and cancel it midway. Return its handle, the reply of the cancel, and the flow just after it."""
        flow = await self.create_census("count it once more")
        await flow.start()
        async with asyncio.TaskGroup() as side_by_side:
            side_by_side.create_task(self.follow(flow, "second census, cancelled", len(flow.members)))
            await self.reached(flow, 0.25)
            began = time.monotonic()
            answer = await flow.cancel("cancel_all", "the demo has seen enough", wait=True)
            then = await flow.get()
            self.say(f"second census {answer.result} within {time.monotonic() - began:.2f} s")
        return flow, answer, then

    async def direct(self) -> Totals:
        """Do the same count in a plain loop, for comparison."""
        bar = self.bars.add_task("counting directly", total=len(self.paths))

        def count() -> Totals:
            files: dict[str, analysis.FileCensus] = {}
            for path in self.paths:
                files[path] = analysis.analyse((self.root / path).read_bytes())
                self.bars.advance(bar)
            return analysis.merge(files)

        return await asyncio.to_thread(count)

    async def verify_audit_chain(self, checks: Checks) -> None:
        verify = await self.processes.start(
            "audit-verify", "penstock.cli", "audit", "verify", "--nats", self.ready.nats_url
        )
        code = await verify.wait()
        checks.expect("penstock audit verify", code == 0, self.processes.log_tail("audit-verify"))

    async def follow(self, flow: FlowRun, title: str, total: int) -> None:
        """Show a flow's progress until it has ended."""
        bar = self.bars.add_task(title, total=total)
        while True:
            record = await flow.get()
            self.bars.update(bar, completed=ended(record.counts) - record.counts.get("canceled", 0))
            if record.status in FLOW_TERMINAL:
                self.bars.stop_task(bar)
                return self.say(f"{title}: the flow is {record.status}")
            await asyncio.sleep(0.2)

    async def reached(self, flow: FlowRun, share: float) -> None:
        """Wait until the number of a flow's ended members reaches `share` of the files."""
        while True:
            if ended((await flow.get()).counts) >= share * len(self.paths):
                return
            await asyncio.sleep(0.05)


async def main(files: int | None) -> int:
    console = Console(log_path=False)
    paths = analysis.stdlib_files(analysis.stdlib_root())[:files]
    folder = Path(tempfile.mkdtemp(prefix="penstock-census-"))
    began = time.monotonic()
    try:
        async with asyncio.timeout(LONGEST_S), Processes(folder) as processes:
            problems = await Demo(console, processes, paths).run()
    except Exception as error:
        traceback.print_exc(file=(folder / "demo.log").open("w"))
        problems = [f"{type(cause).__name__}: {cause}" for cause in causes(error)]
    if problems:
        console.print(
            f"\n[red]The census is off.[/] What every process said is in {folder}.", highlight=False
        )
        for problem in problems:
            console.print(f"[red]✗[/] {escape(problem)}", highlight=False)
        return 1
    shutil.rmtree(folder)
    console.print(f"\nAll is well, after {time.monotonic() - began:.0f} s.")
    return 0


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the single errors inside an exception group, such as a TaskGroup raises."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from causes(inner)
    else:
        yield error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, help="only so many of the library's files, for a quick look")
    sys.exit(asyncio.run(main(parser.parse_args().files)))

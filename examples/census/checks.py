"""The checks at the end of the demo. Each check prints its result; a failed check fails the demo."""

from collections import Counter
from collections.abc import Collection, Mapping

import msgspec
from rich.console import Console

from census import analysis
from census.analysis import Totals
from census.trail import AuditTrail
from penstock import Client
from penstock.client import FlowRun
from penstock.messages.cancellation import FlowCancelled
from penstock.messages.common import Record
from penstock.messages.flows import Flow
from penstock.states import TERMINAL

TRAIL_S = 30.0
ENDED = TERMINAL | {"succeeded", "cancelled"}  # end states of members and of mirrored steps


class Checks:
    """Prints the results of checks, and collects the failed ones in `problems`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.problems: list[str] = []

    def expect(self, what: str, holds: bool, found: object = "") -> None:
        """Check that the statement `what` holds. If not, report `found`, the value seen instead."""
        mark = "[green]✓[/]" if holds else "[red]✗[/]"
        self._console.print(mark, what if holds else f"{what}: {found}", highlight=False)
        if not holds:
            self.problems.append(f"{what}: {found}")

    def expect_equal(self, what: str, found: object, wanted: object) -> None:
        self.expect(what, found == wanted, f"{found!r} instead of {wanted!r}")

    def expect_none(self, what: str, offenders: Collection[str]) -> None:
        """Check that `what` holds for all. `offenders` are the ids for which it does not hold."""
        few = ", ".join(sorted(offenders)[:3])
        self.expect(what, not offenders, f"not for {len(offenders)} of them, such as {few}")


def ended(counts: Mapping[str, int]) -> int:
    """Count the members that have ended in any way."""
    return sum(count for state, count in counts.items() if state in ENDED)


async def check_census(checks: Checks, flow: FlowRun, report: str, direct: Totals, human: str) -> None:
    """Check that the first census finished with the right totals."""
    record = await flow.get()
    checks.expect_equal("the census is finished", record.status, "finished")
    checks.expect_equal("all its members are completed", record.counts, {"completed": len(flow.members)})
    merged = await flow.members["merge"].get()
    totals = msgspec.convert(merged.result, Totals | None)
    checks.expect_equal("its totals are those of the plain loop", totals, direct)
    checks.expect("the report says so", report == analysis.report(direct, human), "another text")


async def check_mirror(checks: Checks, flow: FlowRun, told: dict[str, int]) -> None:
    """Check that the mirrored flow's steps match the counts `told` by the program."""
    checks.expect_equal("the mirrored flow is finished", (await flow.get()).status, "finished")
    steps = Counter([step.status async for step in flow.steps()])
    steps["succeeded"] -= 1  # without the step for the whole run, which is not a file
    checks.expect_equal("its steps are what the program did", dict(steps), told)


async def check_cancelled(checks: Checks, flow: FlowRun, answer: FlowCancelled, then: Flow) -> None:
    """Check that the second census stopped midway and completely. `then` is the flow just after the cancel's reply."""
    checks.expect_equal("flow.cancel with wait=true answers cancelled", answer.result, "cancelled")
    checks.expect_equal("the second census is cancelled", then.status, "cancelled")
    checks.expect_equal("all its members had ended by then", ended(then.counts), len(flow.members))
    checks.expect("it was stopped midway", then.counts.get("canceled", 0) > 0, then.counts)
    checks.expect_equal("nothing of it has moved since", (await flow.get()).counts, then.counts)


async def check_trail(
    checks: Checks, client: Client, first: FlowRun, second: FlowRun, cancelled: Flow
) -> None:
    """Check that the audit trail has every event exactly once."""
    stopped = await members_of(client, second)
    everything = stopped | await members_of(client, first)
    trail = await AuditTrail.read(client, everything, TRAIL_S)
    reclaims = sum(record.reclaims for record in everything.values())
    checks.expect(f"{reclaims} lost leases went to other workers", reclaims > 0, "the killed one held none")
    checks.expect_none(
        f"the {trail.length:,} audit events of {len(everything):,} executions have no gap and no repeat",
        trail.gaps(everything),
    )
    checks.expect_none("each completed one has exactly one completed event", trail.wrong_endings(everything))
    checks.expect_none("nothing was begun after the cancellation", trail.begun_late(second.flow_id, stopped))
    checks.expect_equal(
        "nothing was completed after its answer",
        trail.completed(stopped),
        cancelled.counts.get("completed", 0),
    )


async def members_of(client: Client, flow: FlowRun) -> dict[str, Record]:
    """Return the records of a flow's members, by execution id."""
    return {record.execution_id: record async for record in client.list(flow_id=flow.flow_id, page=500)}

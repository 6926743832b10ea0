"""The console's actions on all that match a filter: progress, stop, refusals, and what is left as it is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from consoles import WAIT_S, Console

pytestmark = pytest.mark.asyncio(loop_scope="module")

AHEAD = 4
"""So many requests of a run are on their way at once (console/src/bus/forAll.ts)."""


async def gated(console: Console, verb: str, most: int) -> None:
    """Open a page whose requests to a verb are held back once at least `most` have gone, until `release`."""
    await console.page.fresh()
    await console.page.run(
        """
        globalThis.gate = { asked: 0, held: [], open: false };
        const asks = new RegExp(`PUB penstock\\.v1\\.${args.verb}[ .]`, "g");
        await page.routeWebSocket(/.*/, (socket) => {
          const server = socket.connectToServer();
          socket.onMessage((message) => {
            const asked = [...message.toString().matchAll(asks)].length;
            const holds = !gate.open && (gate.held.length || (asked && gate.asked >= args.most));
            gate.asked += asked;
            if (holds) gate.held.push(() => server.send(message));
            else server.send(message);
          });
        });
        """,
        verb=verb.replace(".", "\\."),
        most=most,
    )


async def begin(console: Console, name: str, says: str, /, **fields: str) -> None:
    """Choose what to do to all that match, fill its form in, and confirm it. says: what the form has to tell."""
    await console.page.run(
        """
        await page.getByRole("button", { name: "Actions for all that match" }).click();
        await page.getByRole("menuitem", { name: args.name, exact: true }).click();
        const dialog = page.getByRole("dialog");
        for (const [name, value] of Object.entries(args.fields)) await dialog.locator(`[name=${name}]`).fill(value);
        await dialog.getByText("The same on the command line").click();
        await dialog.getByText(new RegExp(args.says)).first().waitFor();
        if (await dialog.evaluate((each) => each.scrollWidth > each.clientWidth)) throw new Error("it is cut off");
        await dialog.getByRole("button", { name: args.name, exact: true }).click();
        await dialog.waitFor({ state: "hidden" });
        """,
        name=name,
        says=says,
        fields=fields,
    )


async def stopped_in_between(console: Console) -> int:
    """Stop the run that the gate holds back. Return how many it has done, once all that it asked for is answered."""
    told = await console.page.run(
        """
        const run = page.locator("[data-run]").first();
        await run.getByText("running").waitFor();
        while (!gate.held.length) await page.waitForTimeout(10);
        const against = await axe();
        await run.getByRole("button", { name: "Stop" }).click();
        await run.getByText("stopped").waitFor();
        gate.open = true;
        for (const send of gate.held.splice(0)) send();
        await run.getByRole("status").getByText(`${gate.asked} done`).waitFor();
        return { against, done: gate.asked };
        """
    )
    assert told["against"] == []
    return told["done"]


async def text_of(console: Console) -> str:
    return await console.page.run(
        'return await page.locator("[data-run]").first().getByRole("status").innerText()'
    )


async def ended(console: Console) -> str:
    """Wait until the last run is finished. Return what it tells of its progress."""
    await console.page.run('await page.locator("[data-run]").first().getByText("finished").waitFor()')
    return await text_of(console)


async def until(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while (seen := await look()) != wanted:
        assert asyncio.get_running_loop().time() < deadline, f"it is {seen}, not {wanted}"
        await asyncio.sleep(0.05)


async def test_all_that_wait_are_signalled_and_that_can_be_stopped(console: Console) -> None:
    runs = await console.client.submit_many([("ask", None)] * 40)
    for each in runs:
        await console.reaches(each.execution_id, "suspended")

    async def woken() -> int:
        seen = [await console.client.get(each.execution_id) for each in runs]
        return [each.state for each in seen].count("completed")

    await gated(console, "signal.send", 8)
    await console.goto("/waits")
    await console.page.run("await page.locator('[role=row][data-id]').first().waitFor()")
    assert await console.page.axe() == []
    # What every service refuses is counted, with the reason.
    await console.page.run("gate.open = true")
    await begin(console, "Signal all", "Which: active waitpoints of the namespace default", name="not a name")
    assert await ended(console) == "0 done, 40 refused, 40 looked at"
    await console.page.run(
        """
        await page.getByText("Why they were refused").click();
        await page.getByText(/40 . invalid_request: /).waitFor();
        gate.open = false;
        gate.asked = 0;
        """
    )
    assert await console.page.axe() == []
    await begin(console, "Signal all", "penstock send .* approved", payload='{"by": "all"}')
    done = await stopped_in_between(console)
    assert 8 <= done <= 8 + 2 * AHEAD
    await until(woken, done)
    await begin(console, "Signal all", "nats req penstock.v1.signal.send ")
    assert await ended(console) == f"{40 - done} done, {40 - done} looked at"
    await until(woken, 40)
    await console.page.run("await page.getByText('No active waitpoints').waitFor()")


async def test_executions_are_signalled_and_revoked_by_the_scheduler(console: Console) -> None:
    waits = await console.client.submit("ask", None, lane="default", tags={"of": "bulk"})
    await console.reaches(waits.execution_id, "suspended")
    await console.page.fresh()
    await console.goto("/executions?tag=of=bulk")
    says = "penstock bulk start signal --tag of=bulk.*--name approved .*--payload .*--key default"
    await begin(
        console, "Signal all", says, name="approved", payload='{"by": "all"}', waitpoint_key="default"
    )
    await console.reaches(waits.execution_id, "completed")
    held = await console.client.submit("hold", None, tags={"of": "bulk"})
    await console.reaches(held.execution_id, "running")
    epoch = (await console.client.get(held.execution_id)).lease_epoch
    await begin(
        console, "Revoke all", "penstock bulk start revoke --tag of=bulk --reason moved", reason="moved"
    )
    await console.page.run(
        """
        const last = page.locator("[data-bulk]").first();
        await last.getByText("revoke").waitFor();
        await last.getByText("finished").waitFor();
        """
    )
    record = await console.reaches(held.execution_id, "running")
    assert record.lease_epoch > epoch and record.reclaims == 0
    await console.client.cancel(held.execution_id, grace_ms=0)


async def test_pending_waitpoints_are_closed(console: Console) -> None:
    await console.client.submit_many([("nobody.takes", None)] * 3, lane="pending")
    taken = await console.client.call(
        "work.next", {"worker_id": "by-hand", "lanes": ["pending"], "max": 3, "start": True}
    )
    for task in taken.tasks:
        fence = {
            name: getattr(task, name) for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")
        }
        await console.client.call("waitpoint.create", {**fence, "waitpoint_key": "door"})
    await console.page.fresh()
    await console.goto("/waits?status=pending")
    await begin(console, "Close all", "penstock waitpoint close .*--reason over", reason="over")
    assert await ended(console) == "3 done, 3 looked at"
    kept = (await console.client.call("waitpoint.list", {"status": "closed"})).items
    assert len([each for each in kept if each.waitpoint_key == "door"]) == 3
    # Nothing is left to be done to any of them.
    await console.page.run(
        """
        await page.getByText("No pending waitpoints").waitFor();
        await page.getByRole("button", { name: "Actions for all that match" }).click();
        const close = page.getByRole("menuitem", { name: /^Close all/ });
        await close.getByText("there is none").waitFor();
        if ((await close.getAttribute("aria-disabled")) !== "true") throw new Error("it can be chosen");
        """
    )
    assert await console.page.axe() == []
    for task in taken.tasks:
        await console.client.cancel(task.execution_id, grace_ms=0)


async def test_all_schedules_are_paused_and_deleted(console: Console) -> None:
    spec = {"execution": {"kind": "by.all"}, "every_ms": 3_600_000}
    made = [await console.client.call("schedule.create", spec) for _ in range(30)]
    await console.client.call("schedule.pause", {"schedule_id": made[0].schedule_id})

    async def paused() -> int:
        return len((await console.client.call("schedule.list", {"status": "paused"})).items)

    await gated(console, "schedule.pause", 8)
    await console.goto("/schedules")
    await begin(console, "Pause all", "Which: no filter: all schedules")
    done = await stopped_in_between(console)
    assert 8 <= done <= 8 + 2 * AHEAD
    await until(paused, done + 1)
    await begin(console, "Pause all", "penstock schedule pause ")
    assert await ended(console) == f"{29 - done} done, {done + 1} left as they were, 30 looked at"
    await console.page.run(
        """
        await page.locator("[data-run]").first().getByText("Why they were left").click();
        await page.getByText(new RegExp(`${args.left} . it is paused already`)).waitFor();
        await page.getByRole("group", { name: "Status" }).getByRole("button", { name: "paused" }).click();
        await page.waitForURL(/status=paused/);
        """,
        left=done + 1,
    )
    await begin(console, "Trigger all", "penstock schedule trigger ")
    assert await ended(console) == "30 done, 30 looked at"
    await begin(console, "Delete all", "Which: schedules that are paused")
    assert await ended(console) == "30 done, 30 looked at"
    await console.page.run("await page.getByText('No schedule is paused').waitFor()")
    assert (await console.client.call("schedule.list", {})).items == []


async def test_a_run_ends_where_nobody_answers(console: Console) -> None:
    spec = {"execution": {"kind": "by.all"}, "every_ms": 3_600_000}
    made = [await console.client.call("schedule.create", spec) for _ in range(12)]
    await gated(console, "schedule.delete", 4)
    await console.goto("/schedules")
    await begin(console, "Delete all", "This cannot be undone")
    await console.page.run(
        """
        // What is held back is never sent: its time runs out.
        await page.locator("[data-run]").getByText("failed").waitFor();
        await page.getByText(/ended at timeout: no answer to schedule.delete in 10 s. What it has done/).waitFor();
        """
    )
    left = len((await console.client.call("schedule.list", {})).items)
    assert 0 < left < len(made)
    assert await console.page.axe() == []
    await console.page.fresh()
    await console.goto("/schedules")
    await begin(console, "Delete all", "penstock schedule delete ")
    assert await ended(console) == f"{left} done, {left} looked at"


async def test_all_flows_are_started_and_cancelled(console: Console) -> None:
    spec = {"controller_id": "all", "goal": "one of many", "owner": "test"}
    members = [{"key": "a", "kind": "nobody.takes"}]
    flows = [await console.client.call("flow.create", {**spec, "members": members}) for _ in range(5)]

    async def status() -> set[str]:
        return {(await console.client.call("flow.get", {"flow_id": each.flow_id})).status for each in flows}

    await console.page.fresh()
    await console.goto("/flows?status=created")
    await begin(console, "Start all", "penstock flow start ")
    assert await ended(console) == "5 done, 5 looked at"
    assert await status() == {"running"}
    await console.page.run(
        """
        await page.getByRole("group", { name: "Status" }).getByRole("button", { name: "running" }).click();
        await page.getByRole("row", { name: /one of many/ }).nth(4).waitFor();
        """
    )
    await begin(
        console, "Cancel all", "This cannot be undone.*Which: flows that are running", reason="enough"
    )
    assert await ended(console) == "5 done, 5 looked at"
    await until(status, {"cancelled"})


async def test_all_budgets_that_hold_work_back(console: Console) -> None:
    limits = {"tokens": {"hard": 1}}
    budgets = [
        (await console.client.call("budget.create", {"dimensions": limits})).budget_id for _ in range(2)
    ]
    run = await console.client.submit("nobody.takes", None, lane="spent", budget_ids=budgets)
    taken = await console.client.call(
        "work.next", {"worker_id": "by-hand", "lanes": ["spent"], "max": 1, "start": True}
    )
    (task,) = taken.tasks
    fence = {
        name: getattr(task, name) for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")
    }
    await console.client.call("lease.usage", {**fence, "budget_id": budgets[0], "dimensions": {"tokens": 1}})
    held = await console.client.submit("double", {"number": 1}, budget_ids=[budgets[0]])
    await console.page.fresh()
    await console.goto("/limits")
    await console.page.run('await page.locator(`[data-limit="${args.id}"]`).waitFor()', id=budgets[0])
    await begin(console, "Reset all", "penstock budget reset ")
    assert await ended(console) == "1 done, 1 looked at"
    await console.reaches(held.execution_id, "completed")
    await console.client.cancel(run.execution_id, grace_ms=0)


async def test_all_lanes_are_paused_and_all_workers_drained(console: Console) -> None:
    await console.client.submit("nobody.takes", None, lane="another")

    async def lanes() -> set[str]:
        return {each.status for each in (await console.client.call("lane.list", {"limit": 1000})).items}

    await console.page.fresh()
    await console.goto("/lanes")
    await console.page.run(
        """
        await page.getByLabel("Name").fill("ANOTHER");
        await page.waitForURL(/text=ANOTHER/);
        await page.locator('[data-id="default"]').waitFor({ state: "detached" });
        """
    )
    await begin(console, "Drain all", "Which: lanes whose names hold ANOTHER")
    assert await ended(console) == "1 done, 1 looked at"
    assert await lanes() == {"active", "draining"}
    await console.page.run(
        """
        await page.getByLabel("Name").fill("");
        await page.locator('[data-id="default"]').waitFor();
        """
    )
    await begin(console, "Pause all", "penstock lane pause ", reason="night")
    await ended(console)
    assert await lanes() == {"paused"}
    await begin(console, "Resume all", "penstock lane resume ")
    await ended(console)
    assert await lanes() == {"active"}
    # A run is shown where it was begun, also after another screen.
    (worker,) = (await console.client.call("worker.list", {"status": "active"})).items
    await console.page.move(f"/workers?status=active&text={worker.worker_id[1:]}")
    await console.page.run("await page.locator('[role=row][data-id]').first().waitFor()")
    assert await console.page.axe() == []
    await begin(console, "Drain all", "penstock workers drain ")
    assert await ended(console) == "1 done, 1 looked at"
    await console.page.run("await page.getByText('No worker matches these filters').waitFor()")
    await console.page.move("/lanes")
    await console.page.run("await page.locator('[data-run]').nth(2).getByText('Drain all').waitFor()")
    assert console.page.errors == []

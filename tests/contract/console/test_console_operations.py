"""The console's screens of everything but executions: what they show, and what they do."""

import asyncio
import re

import nats
import pytest

import commands
from consoles import WAIT_S, Console, double
from penstock import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_now_has_what_was_before_the_page(console: Console) -> None:
    run = await console.client.submit("double", {"number": 3})
    await console.reaches(run.execution_id, "completed")
    await console.goto("/now")
    await console.page.run(
        """
        await page.locator('[data-span="24 hours"]').getByText(/[1-9]/).nth(1).waitFor();
        await page.getByText("Audit lag").locator("..").getByText(/^\\d+(\\.\\d+)? m?s$/).waitFor();
        await page.getByText("Cancel backlog").locator("..").getByText("none is overdue").waitFor();
        const scheduler = page.getByRole("listitem").filter({ hasText: "scheduler" });
        await scheduler.getByText(/\\d+ requests, .* each/).waitFor();
        await page.getByRole("group", { name: "Span" }).getByRole("button", { name: "24 hours" }).click();
        await page.locator(".u-legend").waitFor();
        """
    )


async def test_failures_are_grouped_and_a_group_is_replayed(console: Console) -> None:
    made = await console.client.submit_many([("decline", n) for n in range(3)], tags={"of": "group"})
    for each in made:
        await console.reaches(each.execution_id, "failed")
    await console.goto("/failures")
    await console.page.run(
        """
        const row = page.getByRole("row", { name: /decline.*card declined/ });
        await row.waitFor();
        await row.click();
        await page.waitForURL(/group=/);
        await page.locator(args.row).waitFor();
        await page.goBack();
        await row.getByRole("button", { name: /^Actions/ }).click();
        await page.getByRole("menuitem", { name: "Replay all" }).click();
        await page.getByRole("dialog").getByRole("button", { name: "Replay all" }).click();
        await page.locator("[data-bulk]").first().getByText("finished").waitFor();
        """,
        row=f'[data-id="{made[0].execution_id}"]',
    )
    found = await console.client.call("execution.search", {"filter": {"tag": "of=group"}, "limit": 100})
    assert {each.replay_of for each in found.items} - {None} == {each.execution_id for each in made}


async def test_a_limit_says_whom_it_holds_back(console: Console) -> None:
    spec = {"lane": "default", "concurrency_key": "db", "concurrency_limit": 1}
    runs = [await console.client.submit("hold", None, **spec) for _ in range(2)]
    await console.reaches(runs[0].execution_id, "running")
    await console.goto("/limits")
    await console.page.run(
        """
        const limit = page.locator(".panel").filter({ has: page.locator('[data-limit="default.db"]') });
        await limit.getByText("1 execution", { exact: true }).waitFor();
        for (const id of args.ids) await limit.locator(`a[href$="${id}"]`).waitFor();
        """,
        ids=[each.execution_id for each in runs],
    )
    for each in runs[::-1]:
        await console.client.cancel(each.execution_id, grace_ms=0)
    await console.page.run("await page.locator('[data-limit=\"default.db\"]').waitFor({ state: 'detached' })")


async def test_the_chain_is_verified_in_the_browser(console: Console) -> None:
    run = await console.client.submit("double", {"number": 1})
    await console.reaches(run.execution_id, "completed")
    await console.goto("/audit")
    said = await console.page.run(
        """
        await page.getByRole("button", { name: "Verify the chain" }).click();
        const whole = page.getByText(/The chain is whole/);
        await whole.waitFor();
        const proving = page.locator(".proving");
        return { text: await proving.innerText(), hash: await proving.locator("code").getAttribute("title") };
        """
    )
    counted = re.search(r"([\d,]+) events", said["text"])
    assert counted is not None
    events = int(counted[1].replace(",", ""))
    told = await commands.penstock("audit", "verify", "--json", cwd=console.up.folder)
    assert told.json["ok"] is True and told.json["events"] >= events > 0
    assert re.fullmatch(r"[0-9a-f]{64}", said["hash"])


async def test_a_signal_wakes_what_waits(console: Console) -> None:
    run = await console.client.submit("ask", None)
    await console.reaches(run.execution_id, "suspended")
    await console.goto("/waits")
    await console.page.run(
        """
        await page.getByRole("table", { name: "Waitpoints" }).getByText(/approved/).first().waitFor();
        await page.goto(args.url);
        """,
        url=f"{console.url}/executions/{run.execution_id}",
    )
    await console.does("signal.send", "Send a signal", name="approved", payload='{"by": "me"}')
    assert (await console.reaches(run.execution_id, "completed")).result == ["approved"]


async def test_waits_of_another_namespace(console: Console) -> None:
    run = await console.client.submit("ask", None, namespace="elsewhere")
    await console.reaches(run.execution_id, "suspended")
    await console.goto("/waits")
    await console.page.run(
        """
        await page.getByLabel("Namespace").fill("elsewhere");
        await page.getByRole("table", { name: "Waitpoints" }).getByText(/approved/).first().waitFor();
        await page.waitForURL(/namespace=elsewhere/);
        """
    )
    await run.cancel()


async def test_lanes(console: Console) -> None:
    await console.client.submit("nobody.takes", None, lane="brakes")

    async def press(button: str, status: str) -> None:
        await console.page.run(
            """
            const row = page.locator('[data-id="brakes"]');
            await row.getByRole("button", { name: args.button }).click();
            await page.getByRole("dialog").getByRole("button", { name: args.button }).click();
            await row.getByText(args.status).first().waitFor();
            """,
            button=button,
            status=status,
        )
        lanes = await console.client.call("lane.list", {"limit": 1000})
        assert next(each for each in lanes.items if each.lane == "brakes").status == status

    await console.goto("/lanes")
    await press("Pause", "paused")
    await press("Drain", "draining")
    await press("Resume", "active")


async def test_schedules(console: Console) -> None:
    await console.goto("/schedules")
    await console.page.run(
        """
        await page.getByRole("button", { name: "Create" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator("[name=kind]").fill("by.schedule");
        await dialog.getByText("give either a cron expression or an interval").waitFor();
        await dialog.locator("[name=cron]").fill("0 3 * * *");
        await dialog.getByRole("button", { name: "Create schedule" }).click();
        const row = page.getByRole("row", { name: /by\\.schedule/ });
        await row.getByText("0 3 * * *").waitFor();
        for (const [item, title, then] of [
          ["schedule.pause", "Pause schedule", "paused"],
          ["schedule.resume", "Resume schedule", "active"],
        ]) {
          await row.getByRole("button", { name: /^Actions/ }).click();
          await page.locator(`[role=menuitem][data-verb="${item}"]`).click();
          await dialog.getByRole("button", { name: title }).click();
          await row.getByText(then).waitFor();
        }
        """
    )
    kept = [
        each
        for each in (await console.client.call("schedule.list", {})).items
        if each.execution.kind == "by.schedule"
    ]
    assert [(each.cron, each.status) for each in kept] == [("0 3 * * *", "active")]
    await console.page.run(
        """
        const row = page.getByRole("row", { name: /by\\.schedule/ });
        await row.getByRole("button", { name: /^Actions/ }).click();
        await page.locator('[role=menuitem][data-verb="schedule.update"]').click();
        await page.getByRole("dialog").getByText("nothing is changed yet").waitFor();
        await page.getByRole("dialog").locator("[name=cron]").fill("30 4 * * *");
        await page.getByRole("dialog").getByRole("button", { name: "Edit schedule" }).click();
        await row.getByText("30 4 * * *").waitFor();
        await page.getByRole("dialog").waitFor({ state: "hidden" });
        await row.click();
        await page.waitForURL(/schedule=/);
        const times = page.getByRole("list", { name: "Next times" }).getByRole("listitem");
        await times.nth(19).getByText(/04:30/).waitFor();
        await page.getByText("No due time was left out").waitFor();
        await row.getByRole("button", { name: /^Actions/ }).click();
        await page.locator('[role=menuitem][data-verb="schedule.trigger"]').click();
        await page.getByRole("dialog").getByRole("button", { name: "Trigger now" }).click();
        await page.waitForURL(/executions\\/\\d+-/);
        await page.locator("h1").getByText("by.schedule").waitFor();
        await page.goBack();
        await row.getByRole("button", { name: /^Actions/ }).click();
        await page.locator('[role=menuitem][data-verb="schedule.delete"]').click();
        await page.getByRole("dialog").getByRole("button", { name: "Delete schedule" }).click();
        await row.waitFor({ state: "detached" });
        """
    )


async def test_flows(console: Console) -> None:
    flow = await console.client.call(
        "flow.create",
        {
            "controller_id": "test",
            "goal": "two steps",
            "owner": "test",
            "members": [{"key": "a", "kind": "nobody.takes"}, {"key": "b", "kind": "nobody.takes"}],
            "edges": [{"from": "a", "to": "b"}],
        },
    )
    await console.goto(f"/flows/{flow.flow_id}")
    await console.page.run("await page.locator('.graph[data-boxes=\"2\"]').waitFor()")
    await console.does("flow.start", "Start flow")
    await console.page.run("await page.locator('h1').getByText('running').waitFor()")
    await console.page.run("await page.locator('.box').getByText('ready').waitFor()")
    await console.does("flow.cancel", "Cancel flow", reason="enough")
    await console.page.run("await page.locator('h1').getByText('cancelled').waitFor()")
    assert (await console.client.call("flow.get", {"flow_id": flow.flow_id})).status == "cancelled"


async def test_what_a_worker_holds(console: Console) -> None:
    run = await console.client.submit("hold", None)
    await console.reaches(run.execution_id, "running")
    await console.goto("/workers")
    await console.page.run(
        """
        await page.locator("[role=row][data-id]").first().click();
        await page.getByRole("list", { name: "Holds" }).locator(`a[href$="${args.id}"]`).waitFor();
        """,
        id=run.execution_id,
    )
    await console.client.cancel(run.execution_id, grace_ms=0)


async def test_a_worker_is_drained(console: Console) -> None:
    worker = Worker(console.up.facts["nats_url"], lanes=["drained"], worker_id="drained-one", park=1)
    worker.handler("double")(double)
    running = asyncio.create_task(worker.run(handle_signals=False))
    try:
        await asyncio.wait_for(worker.ready.wait(), WAIT_S)
        await console.goto("/workers")
        await console.page.run(
            """
            const row = page.locator('[data-id="drained-one"]');
            await row.getByText("active").waitFor();
            await row.getByRole("button", { name: "Drain" }).click();
            await page.getByRole("dialog").getByRole("button", { name: "Drain worker" }).click();
            await row.waitFor({ state: "detached" });
            """
        )
        await asyncio.wait_for(asyncio.shield(running), WAIT_S)
    finally:
        worker.stop()
        worker.stop()
        await asyncio.wait({running})


async def test_dead_letters(console: Console) -> None:
    await console.goto("/dead")
    await console.page.run("await page.getByText('No dead letters').waitFor()")
    connection = await nats.connect(console.up.facts["nats_url"])
    await connection.jetstream().publish("penstock.signal.0-nothing.go", b'{"payload": 1}')
    await connection.close()
    await console.page.run(
        """
        const row = page.getByRole("row", { name: /penstock\\.signal\\.0-nothing\\.go/ });
        for (let turn = 0; turn < 100 && !(await row.count()); turn += 1) {
          await page.waitForTimeout(200);
          await page.reload();
          await page.getByRole("table", { name: "Dead letters" }).waitFor();
        }
        await row.click();
        await page.getByRole("group", { name: "Body" }).getByText("payload").waitFor();
        await page.getByRole("button", { name: /copy as nats pub/ }).waitFor();
        await page.getByRole("button", { name: "Publish again" }).click();
        await page.getByRole("dialog").getByText("The same on the command line").click();
        await page.getByRole("dialog").getByText("penstock dead publish 1").waitFor();
        await page.getByRole("dialog").getByRole("button", { name: "Publish again" }).click();
        await page.getByRole("dialog").waitFor({ state: "hidden" });
        await page.getByRole("button", { name: "Look again" }).click();
        for (let turn = 0; turn < 100 && (await row.count()) < 2; turn += 1) {
          await page.getByRole("button", { name: "Look again" }).click();
          await page.waitForTimeout(200);
        }
        await row.nth(1).waitFor();
        """
    )
    listed = await commands.penstock("dead", "list", "--json", cwd=console.up.folder)
    newest, oldest = listed.json["items"]
    assert newest["subject"] == oldest["subject"] == "penstock.signal.0-nothing.go"
    assert newest["body"] == {"payload": 1} and newest["why"] == oldest["why"]
    published = await commands.penstock("dead", "publish", "1", "--json", cwd=console.up.folder)
    # The console has just done it: JetStream knows the message.
    assert published.json["duplicate"] is True
    shown = await commands.penstock("dead", "get", "2", cwd=console.up.folder)
    assert shown.code == 0 and "signal.0-nothing.go" in shown.out
    assert (await commands.penstock("dead", "get", "99", cwd=console.up.folder)).code == 2


async def test_mirror_rules(console: Console) -> None:
    await console.goto("/mirror")
    await console.page.run(
        """
        await page.getByRole("button", { name: "New rule" }).click();
        await page.getByRole("dialog").getByRole("button", { name: "Store rule" }).click();
        const row = page.locator('[data-id="builds"]');
        await row.getByText("ci.*.job").waitFor();
        await row.getByRole("button", { name: /^Actions/ }).click();
        await page.locator('[role=menuitem][data-verb="mirror_rule.test"]').click();
        await page.getByRole("button", { name: "What would it make?" }).click();
        await page.getByRole("group", { name: "Observation" }).getByText("succeeded").waitFor();
        """
    )
    assert [each.name for each in (await console.client.call("mirror_rule.list", {})).items] == ["builds"]
    await console.page.run(
        """
        const row = page.locator('[data-id="builds"]');
        await row.getByRole("button", { name: /^Actions/ }).click();
        await page.locator('[role=menuitem][data-verb="mirror_rule.delete"]').click();
        await page.getByRole("dialog").getByRole("button", { name: "Delete rule" }).click();
        await row.waitFor({ state: "detached" });
        """
    )
    assert (await console.client.call("mirror_rule.list", {})).items == []

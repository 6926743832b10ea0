"""The console in a real browser, against a real `penstock up`: what it shows, what it does, and what it withstands."""

import asyncio
import gzip
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import nats
import pytest
import pytest_asyncio

import commands
from browser import Browser, needed
from commands import Up
from penstock import Client, Fail, Retry, Suspend, Task, Worker
from penstock.console import server

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 45.0
FIRST_LOAD = 300 * 1024
"""Bytes, compressed: what a browser loads before the first screen is there."""
BY_LOOKS = ("color-contrast", "target-size", "scrollable-region-focusable")
"""The rules of axe whose answer depends on the theme and on the width."""
PICTURES = os.environ.get("PENSTOCK_PICTURES")
"""A directory for screenshots, if they are wanted."""


class Console(NamedTuple):
    up: Up
    client: Client
    page: Browser

    @property
    def url(self) -> str:
        return self.up.facts["console_url"]

    async def goto(self, path: str) -> None:
        await self.page.run(
            "await page.goto(args.url); await page.locator('h1').waitFor()", url=self.url + path
        )

    async def reaches(self, execution_id: str, *states: str) -> Any:
        """Wait until the execution is in one of these states. Return its record."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while (record := await self.client.get(execution_id)).state not in states:
            assert asyncio.get_running_loop().time() < deadline, f"it is {record.state}, not {states}"
            await asyncio.sleep(0.05)
        return record

    async def does(self, verb: str, title: str, **fields: str) -> None:
        """Choose an action of the shown thing's menu, fill its fields in, and confirm it."""
        await self.page.run(
            """
            await page.getByRole("button", { name: /^Actions for this/ }).first().click();
            await page.locator(`[role=menuitem][data-verb="${args.verb}"]`).first().click();
            const dialog = page.getByRole("dialog");
            await dialog.waitFor();
            for (const [name, value] of Object.entries(args.fields)) {
              const field = dialog.locator(`[name=${name}]`);
              if ((await field.evaluate((each) => each.tagName)) === "SELECT") await field.selectOption(value);
              else await field.fill(value);
            }
            await dialog.getByRole("button", { name: args.title, exact: true }).click();
            await dialog.waitFor({ state: "hidden" });
            """,
            verb=verb,
            title=title,
            fields=fields,
        )


async def double(task: Task, number: int) -> int:
    await task.append_frame("log", {"doubling": number})
    return 2 * number


async def two_steps(task: Task, n: int) -> list[int]:
    async def given() -> int:
        return n

    return [await task.step("first", given), await task.step("second", given)]


async def ask(task: Task) -> list[str]:
    if not task.resumed:
        raise Suspend("approved")
    return [signal.name for signal in await task.resumed_by()]


async def decline(task: Task) -> None:
    raise Fail("card declined", category="declined")


async def retry(task: Task) -> None:
    raise Retry("not yet", after=3600)


async def hold(task: Task) -> None:
    await asyncio.sleep(3600)


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    needed()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Console]:
    async with (
        Up.open(tmp_path_factory.mktemp("console")) as up,
        await Client.connect(up.facts["nats_url"]) as client,
        Browser.open() as page,
    ):
        worker = Worker(up.facts["nats_url"], concurrency=16, park=1)
        for kind, handler in {
            "double": double,
            "two.steps": two_steps,
            "ask": ask,
            "decline": decline,
            "retry": retry,
            "hold": hold,
        }.items():
            worker.handler(kind)(handler)
        running = asyncio.create_task(worker.run(handle_signals=False))
        try:
            await asyncio.wait_for(worker.ready.wait(), WAIT_S)
            await page.fresh()
            yield Console(up, client, page)
        finally:
            worker.stop()
            worker.stop()
            await asyncio.wait({running})


# -- the files


async def test_the_first_load_is_small() -> None:
    page = (server.STATIC / "index.html").read_text()
    names = re.findall(r'(?:src|href)="/(assets/[^"]+)"', page)
    assert any(name.endswith(".js") for name in names) and any(name.endswith(".css") for name in names)
    files = [page.encode(), *((server.STATIC / name).read_bytes() for name in names)]
    assert sum(len(gzip.compress(each)) for each in files) < FIRST_LOAD


async def test_every_path_is_the_page_and_only_its_origin_may_open_the_websocket(console: Console) -> None:
    def get(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(console.url + path, headers=headers)) as reply:
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), b""

    _, headers, page = await asyncio.to_thread(get, "/executions/0-nothing?state=ready")
    assert b'<div id="root">' in page and "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (await asyncio.to_thread(get, "/assets/nothing.js"))[0] == 404
    _, _, config = await asyncio.to_thread(get, "/config.json")
    told = json.loads(config)
    assert told == {"nats_ws": console.up.facts["nats_ws_url"], "root": "penstock", "secured": False}

    def upgrade(origin: str) -> int:
        connection = http.client.HTTPConnection(told["nats_ws"].removeprefix("ws://"), timeout=WAIT_S)
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Origin": origin,
        }
        connection.request("GET", "/", headers=headers)
        status = connection.getresponse().status
        connection.close()
        return status

    assert await asyncio.to_thread(upgrade, console.url) == 101
    assert await asyncio.to_thread(upgrade, "http://evil.example") == 403


async def test_the_console_alone(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *commands.COMMAND, "--json", "--root", "other", "console", "--nats-ws", "ws://127.0.0.1:1",
        stdout=asyncio.subprocess.PIPE, cwd=tmp_path, env=commands.clean_environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = json.loads(await asyncio.wait_for(process.stdout.readline(), WAIT_S))["console_url"]
        config = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/config.json").read())
        assert json.loads(config) == {"nats_ws": "ws://127.0.0.1:1", "root": "other", "secured": False}
    finally:
        process.terminate()
        await process.wait()
    said = await commands.penstock("console", "--nats-ws", "http://x")
    assert said.code == 2 and "ws://" in said.err


# -- what it shows


async def test_the_list_is_live_and_its_filters_are_in_the_address(console: Console) -> None:
    run = await console.client.submit("list.job", {"n": 1}, lane="listed", tags={"team": "a"})
    await console.goto("/executions?lane=listed")
    row = f'[data-id="{run.execution_id}"]'
    await console.page.run("await page.locator(args.row).getByText('ready').waitFor()", row=row)
    other = await console.client.submit("other.job", 1, lane="listed")
    await console.page.run("await page.locator(args.row).waitFor()", row=f'[data-id="{other.execution_id}"]')
    await console.client.cancel(run.execution_id)
    await console.page.run("await page.locator(args.row).getByText('canceled').waitFor()", row=row)
    await console.page.run(
        """
        await page.getByLabel("Kind").fill("other.job");
        await page.waitForURL(/kind=other\\.job/);
        await page.locator(args.gone).waitFor({ state: "detached" });
        await page.reload();
        await page.locator(args.there).waitFor();
        if (await page.locator(args.gone).count()) throw new Error("the filter did not outlive the reload");
        """,
        gone=row,
        there=f'[data-id="{other.execution_id}"]',
    )
    # One that leaves the filter's state leaves the list.
    await console.goto("/executions?lane=listed&state=ready")
    await console.page.run("await page.locator(args.row).waitFor()", row=f'[data-id="{other.execution_id}"]')
    await console.client.cancel(other.execution_id)
    await console.page.run(
        "await page.locator(args.row).waitFor({ state: 'detached' })", row=f'[data-id="{other.execution_id}"]'
    )


async def test_all_that_match_are_changed_and_that_can_be_stopped(console: Console) -> None:
    made = await console.client.submit_many(
        [("bulk.job", n) for n in range(40)], lane="bulk", tags={"of": "Bulk"}
    )
    other = await console.client.submit("other.job", 1, lane="bulk")
    await console.goto("/executions?lane=bulk&text=bulk.j&from=2020-01-01T00:00&until=2100-01-01T00:00")
    await console.page.run(
        """
        await page.getByText("40 executions", { exact: true }).waitFor();
        await page.getByLabel("Created until").fill("2020-02-01T00:00");
        await page.waitForURL(/until=2020/);
        await page.getByText("Nothing matches these filters").waitFor();
        await page.getByLabel("Created until").fill("");
        await page.getByText("40 executions", { exact: true }).waitFor();
        """
    )

    async def cancel(rate: str) -> None:
        await console.page.run(
            """
            await page.getByRole("button", { name: "Actions for all that match" }).click();
            await page.getByRole("menuitem", { name: "Cancel all" }).click();
            const dialog = page.getByRole("dialog");
            await dialog.locator("[name=rate]").fill(args.rate);
            await dialog.getByText("The same on the command line").click();
            await dialog.getByText(/penstock bulk start cancel .*--lane bulk/).waitFor();
            await dialog.getByRole("button", { name: "Cancel all" }).click();
            await dialog.waitFor({ state: "hidden" });
            """,
            rate=rate,
        )

    await cancel("1")
    await console.page.run(
        """
        const first = page.locator("[data-bulk]").first();
        await first.getByRole("button", { name: "Stop" }).click();
        await page.getByRole("dialog").getByRole("button", { name: "Stop" }).click();
        await first.getByText("stopped").waitFor();
        """
    )
    await cancel("1000")
    await console.page.run(
        """
        await page.locator("[data-bulk]").first().getByText("finished").waitFor();
        await page.locator("[role=row][data-id]").getByText("ready").first().waitFor({ state: "detached" });
        """
    )
    found = await console.client.call(
        "execution.search", {"filter": {"lane": "bulk", "states": ["canceled"]}}
    )
    assert {each.execution_id for each in found.items} == {each.execution_id for each in made}
    assert (await console.client.get(other.execution_id)).state == "ready"


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


async def test_an_execution_says_why_and_shows_its_life(console: Console) -> None:
    run = await console.client.submit("double", {"number": 21}, tags={"shop": "eu"})
    await console.reaches(run.execution_id, "completed")
    await console.goto(f"/executions/{run.execution_id}")
    await console.page.run(
        """
        await page.locator("[data-explain]").getByText("It completed").waitFor();
        await page.getByRole("img", { name: /^running/ }).waitFor();
        await page.getByRole("group", { name: "Result" }).getByText("42").waitFor();
        await page.getByRole("log", { name: "Frames" }).getByText("doubling").waitFor();
        await page.getByRole("link", { name: "shop=eu" }).waitFor();
        const events = page.getByRole("region", { name: "Audit events" });
        await events.getByRole("row", { name: /completed.*✓/ }).waitFor();
        await events.getByRole("row", { name: /created.*✓/ }).waitFor();
        """
    )
    await console.goto("/executions/0-00000000-0000-7000-8000-000000000000")
    await console.page.run("await page.getByText('execution_not_found').waitFor()")


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


async def test_a_large_list_and_a_large_flow_are_drawn_in_part(console: Console) -> None:
    many = 3000
    await console.client.submit_many([("many.job", {"n": n}) for n in range(many)], lane="many")
    await console.goto("/executions?lane=many")
    drawn = await console.page.run(
        """
        const body = page.getByRole("table", { name: "Executions" }).locator(".tbody");
        const foot = page.getByText(args.all, { exact: true });
        for (;;) {
          await body.evaluate((each) => each.scrollTo(0, each.scrollHeight));
          if (await foot.isVisible()) break;
          await page.waitForTimeout(20);
        }
        return await page.locator(".tbody [role=row]").count();
        """,
        all=f"{many:,} executions",
    )
    assert 10 < drawn < 100

    fan = [{"key": f"part-{n}", "kind": "fan.part"} for n in range(1000)]
    flow = await console.client.call(
        "flow.create",
        {
            "controller_id": "test",
            "goal": "a wide one",
            "owner": "test",
            "members": [{"key": "first", "kind": "fan.first"}, *fan, {"key": "last", "kind": "fan.last"}],
            "edges": [{"from": "first", "to": each["key"]} for each in fan]
            + [{"from": each["key"], "to": "last"} for each in fan],
        },
    )
    await console.goto(f"/flows/{flow.flow_id}")
    await console.page.run(
        """
        await page.locator('.graph[data-boxes="3"][data-members="1002"]').waitFor();
        await page.getByText(/1,000 . fan.part/).waitFor();
        """
    )


# -- what its actions do


async def test_submitting(console: Console) -> None:
    await console.goto("/executions")
    execution_id = await console.page.run(
        """
        await page.getByRole("button", { name: "Submit" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator("[name=kind]").fill("double");
        await dialog.locator("[name=input]").fill('{"number": ');
        await dialog.getByText("Input is no JSON yet").waitFor();
        await dialog.locator("[name=input]").fill('{"number": 4}');
        await dialog.getByText("The same on the command line").click();
        await dialog.getByText(/nats req penstock\\.v1\\.execution\\.create/).waitFor();
        await dialog.getByText(/penstock submit double/).waitFor();
        await dialog.getByRole("button", { name: "Submit", exact: true }).click();
        await page.waitForURL(/executions\\/\\d+-/);
        return page.url().split("/").at(-1);
        """
    )
    record = await console.reaches(execution_id, "completed")
    assert (record.input, record.result) == ({"number": 4}, 8)


async def test_a_form_has_the_shape_that_the_kind_takes(console: Console) -> None:
    await console.goto("/executions")
    await console.page.run(
        """
        await page.getByRole("button", { name: "Submit" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator('datalist option[value="double"]').waitFor({ state: "attached" });
        await dialog.locator("[name=kind]").fill("double");
        await dialog.getByText(/number: integer/).waitFor();
        const value = JSON.parse(await dialog.locator("[name=input]").inputValue());
        if (value.number !== 0) throw new Error(`the form has ${JSON.stringify(value)}`);
        """
    )


async def test_the_steps_of_a_function_and_a_fork(console: Console) -> None:
    run = await console.client.submit("two.steps", {"n": 1})
    await console.reaches(run.execution_id, "completed")
    await console.goto(f"/executions/{run.execution_id}")
    fork = await console.page.run(
        """
        const steps = page.getByRole("region", { name: "Steps" });
        await steps.getByRole("row", { name: /first.*completed/ }).waitFor();
        await steps.getByRole("row", { name: /second/ }).getByRole("button", { name: "Fork" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator("[name=input]").fill('{"n": 5}');
        await dialog.getByRole("button", { name: "Fork", exact: true }).click();
        await page.waitForURL((url) => !url.href.endsWith(args.old));
        return page.url().split("/").at(-1);
        """,
        old=run.execution_id,
    )
    record = await console.reaches(fork, "completed")
    # The first step was not done again: its result is the old input's.
    assert (record.input, record.result) == ({"n": 5}, [1, 5])


async def test_now_has_what_was_before_the_page(console: Console) -> None:
    run = await console.client.submit("double", {"number": 3})
    await console.reaches(run.execution_id, "completed")
    await console.goto("/now")
    await console.page.run(
        "await page.locator('[data-span=\"24 hours\"]').getByText(/[1-9]/).nth(1).waitFor()"
    )


async def test_replay_with_another_input(console: Console) -> None:
    run = await console.client.submit("decline", {"number": 1})
    await console.reaches(run.execution_id, "failed")
    await console.goto(f"/executions/{run.execution_id}")
    await console.page.run("await page.getByText('card declined').first().waitFor()")
    await console.does("execution.replay", "Replay", input='{"number": 5}')
    replay = await console.page.run(
        "await page.waitForURL((url) => !url.href.endsWith(args.old)); return page.url().split('/').at(-1)",
        old=run.execution_id,
    )
    record = await console.client.get(replay)
    assert (record.replay_of, record.input) == (run.execution_id, {"number": 5})


async def test_steering_one_execution(console: Console) -> None:
    run = await console.client.submit("nobody.takes", {"n": 1})
    await console.goto(f"/executions/{run.execution_id}")
    await console.does("execution.change_priority", "Change priority", priority="7")
    await console.does("execution.set_tags", "Set tags", tags='{"by": "console"}')
    record = await console.client.get(run.execution_id)
    assert (record.priority, record.tags) == (7, {"by": "console"})
    await console.page.run("await page.getByRole('link', { name: 'by=console' }).waitFor()")
    await console.does("execution.cancel", "Cancel execution", reason="not wanted")
    await console.reaches(run.execution_id, "canceled")
    await console.page.run("await page.locator('h1').getByText('canceled').waitFor()")

    late = await console.client.submit("retry", None, max_attempts=3)
    await console.reaches(late.execution_id, "retry_wait")
    await console.goto(f"/executions/{late.execution_id}")
    await console.does("execution.run_now", "Run now")
    record = await console.reaches(late.execution_id, "retry_wait", "failed")
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while (await console.client.get(late.execution_id)).attempt_index < 2:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)

    held = await console.client.submit("hold", None)
    await console.reaches(held.execution_id, "running")
    await console.goto(f"/executions/{held.execution_id}")
    epoch = (await console.client.get(held.execution_id)).lease_epoch
    await console.does("lease.revoke", "Revoke lease", reason="try another")
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while (await console.client.get(held.execution_id)).lease_epoch == epoch:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    await console.reaches(held.execution_id, "running")
    await console.does("execution.suspend", "Suspend", reason="wait")
    assert (await console.reaches(held.execution_id, "suspended")).reason == "operator"
    await console.page.run("await page.locator('h1').getByText('suspended').waitFor()")
    await console.does("execution.resume", "Resume")
    await console.reaches(held.execution_id, "running")
    await console.does("execution.cancel", "Cancel execution", grace_ms="0")
    await console.reaches(held.execution_id, "canceled")


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
        """
    )


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


# -- by keyboard, and for everybody


async def test_by_keyboard_alone(console: Console) -> None:
    first = await console.client.submit("keys.job", 1, lane="keys")
    second = await console.client.submit("keys.job", 2, lane="keys")
    await console.goto("/executions?lane=keys")
    await console.page.run(
        """
        await page.locator(args.row).waitFor();
        await page.keyboard.press("j");
        await page.keyboard.press("j");
        await page.locator(`${args.row}.at`).waitFor();
        await page.keyboard.press("Enter");
        await page.waitForURL((url) => url.pathname.endsWith(args.id));
        await page.keyboard.press("Control+k");
        await page.getByRole("combobox").fill("lanes");
        await page.keyboard.press("Enter");
        await page.waitForURL(/\\/lanes$/);
        await page.keyboard.press("Control+k");
        await page.getByRole("combobox").fill(args.other);
        await page.keyboard.press("Enter");
        await page.waitForURL((url) => url.pathname.endsWith(args.other));
        await page.goto(args.list);
        await page.locator(args.row).waitFor();
        await page.keyboard.press("/");
        await page.waitForFunction(() => document.activeElement?.hasAttribute("data-search"));
        """,
        row=f'[data-id="{first.execution_id}"]',
        id=first.execution_id,
        other=second.execution_id,
        list=f"{console.url}/executions?lane=keys",
    )


async def test_axe_finds_nothing_on_any_screen(console: Console) -> None:
    asked = await console.client.submit("ask", None)
    done = await console.client.submit("double", {"number": 21}, tags={"shop": "eu"})
    await console.client.submit("decline", None)
    await console.client.call("schedule.create", {"execution": {"kind": "by.axe"}, "every_ms": 3_600_000})
    flow = await console.client.call(
        "flow.create",
        {
            "controller_id": "axe",
            "goal": "look at it",
            "owner": "test",
            "members": [{"key": "a", "kind": "nobody.takes"}, {"key": "b", "kind": "nobody.takes"}],
            "edges": [{"from": "a", "to": "b"}],
        },
    )
    await console.reaches(asked.execution_id, "suspended")
    await console.reaches(done.execution_id, "completed")
    # Each screen, and what tells that its content is there.
    screens = {
        "/now": ".u-legend",
        "/executions": "[role=row][data-id]",
        f"/executions/{done.execution_id}": "table.plain",
        f"/executions/{asked.execution_id}": ".plain-list",
        "/flows": "[role=row][data-id]",
        f"/flows/{flow.flow_id}": ".box",
        "/lanes": "[role=row][data-id]",
        "/workers": "[role=row][data-id]",
        "/schedules": "[role=row][data-id]",
        "/waits": "[role=row][data-id]",
        "/limits": "h1",
        "/failures": "h1",
        "/dead": "h1",
        "/mirror": "h1",
        "/audit": "h1",
    }
    found: dict[str, list[str]] = {}
    for theme, width, rules in (("light", 1280, ()), ("dark", 390, BY_LOOKS)):
        await console.page.fresh(width=width, height=844 if PICTURES else 600, colorScheme=theme)
        await console.goto("/audit")
        for path, sign in screens.items():
            await console.page.move(path)
            await console.page.run("await page.locator(args.sign).first().waitFor()", sign=sign)
            wide = await console.page.run(
                "return await page.evaluate(() => document.documentElement.scrollWidth)"
            )
            assert wide <= width, f"{path} is {wide} pixels wide at {width}"
            cut = await console.page.run(
                """
                return await page.evaluate(() =>
                  [...document.querySelectorAll(".tr")].filter((row) => row.scrollWidth > row.clientWidth + 1).length
                );
                """
            )
            assert cut == 0, f"{path} has columns beyond its right edge at {width}"
            if violations := await console.page.axe(*rules):
                found[f"{path} {theme}"] = violations
            if PICTURES:
                name = f"{path.strip('/').replace('/', '-')[:12]}-{theme}.png"
                await console.page.run(
                    "await page.screenshot({ path: args.path })", path=str(Path(PICTURES) / name)
                )
            assert console.page.errors == []
    await console.page.run(
        """
        await page.goto(args.url);
        await page.getByRole("button", { name: "Submit" }).click();
        await page.getByRole("dialog").waitFor();
        """,
        url=f"{console.url}/executions",
    )
    found["dialog"] = await console.page.axe()
    await console.page.fresh()
    assert not any(found.values()), json.dumps(found, indent=1)


# -- what it withstands


async def test_nats_is_killed_and_comes_back_while_the_page_is_open(console: Console) -> None:
    await console.page.fresh()
    before = await console.client.submit("before.kill", 1, lane="killed")
    await console.goto("/executions?lane=killed")
    await console.page.run("await page.locator(args.row).waitFor()", row=f'[data-id="{before.execution_id}"]')
    commands.kill(console.up.facts["server_pids"]["nats-server"])
    await console.page.run(
        """
        await page.getByText("the connection to NATS was lost").waitFor();
        await page.locator('[data-link="open"]').first().waitFor();
        await page.locator(args.row).waitFor();
        """,
        row=f'[data-id="{before.execution_id}"]',
    )
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            after = await console.client.submit("after.kill", 2, lane="killed")
            break
        except Exception:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
    await console.page.run("await page.locator(args.row).waitFor()", row=f'[data-id="{after.execution_id}"]')
    await console.client.cancel(after.execution_id)
    await console.page.run(
        "await page.locator(args.row).getByText('canceled').waitFor()",
        row=f'[data-id="{after.execution_id}"]',
    )
    assert console.page.errors == []


async def test_a_viewer_sees_and_may_not_touch(tmp_path: Path) -> None:
    made = await commands.penstock("secure", str(tmp_path / "secrets"), "--viewer=bob", "--operator=alice")
    assert made.code == 0, made.err
    users = tmp_path / "secrets" / "users"
    async with (
        Up.open(tmp_path, "--secure", str(tmp_path / "secrets")) as up,
        Browser.open() as page,
    ):
        alice = await Client.connect(up.facts["nats_url"], str(users / "alice.json"))
        async with alice:
            run = await alice.submit("watched.job", {"n": 1})
            await page.fresh()
            await page.run(
                """
                await page.goto(args.url);
                await page.locator("input[type=file]").setInputFiles(args.bob);
                await page.locator(args.row).waitFor();
                await page.getByText("viewer", { exact: true }).waitFor();
                const submit = page.locator('[data-verb="execution.create"]');
                const reason = await submit.getAttribute("title");
                if (!/has no NATS permission for execution.create/.test(reason)) throw new Error("no reason");
                await submit.click({ force: true });
                if (await page.getByRole("dialog").count()) throw new Error("a viewer got the form");
                """,
                url=f"{up.facts['console_url']}/executions",
                bob=str(users / "bob.json"),
                row=f'[data-id="{run.execution_id}"]',
            )
            await alice.cancel(run.execution_id)
            await page.run(
                "await page.locator(args.row).getByText('canceled').waitFor()",
                row=f'[data-id="{run.execution_id}"]',
            )
            # What the console does not know of the role, nats-server says itself.
            await page.run(
                """
                await page.getByRole("link", { name: "Audit" }).click();
                await page.getByRole("button", { name: "Verify the chain" }).click();
                await page.getByText(/NATS permission: you may not read PENSTOCK_AUDIT/).waitFor();
                await page.getByRole("button", { name: "log out" }).click();
                await page.locator("input[type=file]").setInputFiles(args.alice);
                await page.getByText("operator", { exact: true }).waitFor();
                """,
                alice=str(users / "alice.json"),
            )
            again = await alice.submit("watched.job", {"n": 2})
            await page.run(
                """
                await page.goto(args.url);
                await page.locator("h1").waitFor();
                await page.getByRole("button", { name: "Cancel", exact: true }).click();
                await page.getByRole("dialog").getByRole("button", { name: "Cancel execution" }).click();
                await page.locator("h1").getByText("canceled").waitFor();
                """,
                url=f"{up.facts['console_url']}/executions/{again.execution_id}",
            )
            history = [event async for event in alice.history(again.execution_id)]
            assert [event.actor for event in history if event.to == "canceled"] == ["user:alice"]

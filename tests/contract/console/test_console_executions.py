"""The console's list of executions, one execution, and what is done to them."""

import asyncio
from datetime import datetime

import pytest

from consoles import WAIT_S, Console

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def test_a_change_is_shown_from_its_event_and_nothing_is_polled(console: Console) -> None:
    run = await console.client.submit("list.job", 1, lane="live")
    row = f'[data-id="{run.execution_id}"]'
    await console.page.fresh()
    await console.page.run(
        """
        globalThis.asked = [];
        page.on("websocket", (socket) =>
          socket.on("framesent", ({ payload }) =>
            globalThis.asked.push(...[...String(payload).matchAll(/^H?PUB (\\S+)/gm)].map((each) => each[1])),
          ),
        );
        await page.clock.install();
        """
    )
    await console.goto("/executions?lane=live")
    asked = await console.page.run(
        """
        await page.locator(args.row).getByText("ready").waitFor();
        globalThis.asked.length = 0;
        // Ten minutes pass at once: every timer of the page that is due in them fires.
        await page.clock.fastForward("10:00");
        await page.locator(args.row).getByText("10 min").waitFor();
        return globalThis.asked;
        """,
        row=row,
    )
    assert asked == []
    await console.client.cancel(run.execution_id)
    asked = await console.page.run(
        "await page.locator(args.row).getByText('canceled').waitFor(); return globalThis.asked", row=row
    )
    assert set(asked) == {"penstock.v1.execution.get"}
    await console.page.fresh()


async def test_columns_filters_and_views_are_in_the_address(console: Console) -> None:
    spec = {"lane": "viewed", "namespace": "acme"}
    ready = await console.client.submit("viewed", 1, **spec)
    gone = await console.client.submit("viewed", 2, **spec)
    held = await console.client.submit("viewed", 3, run_at=4_102_444_800_000, **spec)
    await console.client.cancel(gone.execution_id)
    await console.goto("/executions?lane=viewed")
    await console.page.run(
        """
        const row = (id) => page.locator(`[data-id="${id}"]`);
        const chips = page.getByRole("group", { name: "State" });
        await chips.getByRole("button", { name: "ready" }).click();
        await row(args.gone).waitFor({ state: "detached" });
        await chips.getByRole("button", { name: "canceled" }).click();
        await row(args.gone).waitFor();
        await row(args.ready).waitFor();
        if (await row(args.held).count()) throw new Error("a third state is shown");
        await page.getByRole("button", { name: "more filters" }).click();
        await page.getByLabel("Ended from").fill("2020-01-01T00:00");
        await row(args.ready).waitFor({ state: "detached" });
        await page.getByLabel("Attempts, at most").fill("0");
        await page.waitForURL(/most=/);
        await page.getByRole("button", { name: "Columns" }).click();
        await page.getByRole("menuitemcheckbox", { name: "Namespace" }).click();
        await page.getByRole("menuitemcheckbox", { name: "Took" }).click();
        await page.keyboard.press("Escape");
        await page.getByRole("columnheader", { name: "Namespace" }).waitFor();
        await page.getByRole("columnheader", { name: "Took" }).waitFor({ state: "detached" });
        await row(args.gone).getByText("acme").waitFor();
        await page.getByRole("button", { name: "Views" }).click();
        await page.getByRole("menuitem", { name: /^Save/ }).click();
        await page.getByLabel("Name", { exact: true }).fill("Mine");
        await page.getByRole("button", { name: "Save view" }).click();
        const address = new URL(page.url());
        await page.goto(args.list);
        await row(args.held).waitFor();
        await page.getByRole("button", { name: "Views" }).click();
        await page.getByRole("menuitem", { name: "Mine", exact: true }).click();
        await row(args.held).waitFor({ state: "detached" });
        await page.getByRole("columnheader", { name: "Namespace" }).waitFor();
        const now = new URL(page.url());
        now.searchParams.sort();
        address.searchParams.sort();
        if (now.search !== address.search) throw new Error(`${now.search} is not ${address.search}`);
        """,
        ready=ready.execution_id,
        gone=gone.execution_id,
        held=held.execution_id,
        list=f"{console.url}/executions",
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


async def test_the_children_of_an_execution_are_a_tree(console: Console) -> None:
    async def child_of(parent: str) -> str:
        spec = {"kind": "nobody.takes", "parent_id": parent}
        return (await console.client.call("execution.create", spec)).execution_id

    top = (await console.client.submit("nobody.takes", None)).execution_id
    middle = await child_of(top)
    leaf = await child_of(middle)
    await console.goto(f"/executions/{top}")
    await console.page.run(
        """
        const row = page.locator(`[data-child="${args.middle}"]`);
        await row.getByRole("button").first().click();
        await row.locator(`[data-child="${args.leaf}"]`).getByText("ready").waitFor();
        """,
        middle=middle,
        leaf=leaf,
    )
    await console.client.cancel(leaf)
    late = await child_of(top)
    await console.page.run(
        """
        await page.locator(`[data-child="${args.leaf}"]`).getByText("canceled").waitFor();
        await page.locator(`[data-child="${args.late}"]`).waitFor();
        await page.getByRole("link", { name: "2, as a list" }).click();
        await page.locator(`[role=row][data-id="${args.middle}"]`).waitFor();
        await page.locator(`[role=row][data-id="${args.leaf}"]`).waitFor({ state: "detached" });
        """,
        leaf=leaf,
        middle=middle,
        late=late,
    )


async def test_submitting(console: Console) -> None:
    await console.goto("/executions")
    execution_id = await console.page.run(
        """
        await page.getByRole("button", { name: "Submit" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator("[name=kind]").fill("double");
        await dialog.getByRole("button", { name: "the input as JSON" }).click();
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


async def test_a_form_has_an_input_for_each_field_of_the_kind(console: Console) -> None:
    await console.goto("/executions")
    execution_id = await console.page.run(
        """
        await page.getByRole("button", { name: "Submit" }).click();
        const dialog = page.getByRole("dialog");
        const field = (name) => dialog.locator(`[name="input.${name}"]`);
        await dialog.locator('datalist option[value="order"]').waitFor({ state: "attached" });
        await dialog.locator("[name=kind]").fill("order");
        await dialog.getByText(/lines: integer/).waitFor();
        await field("customer").fill("Ada");
        await field("lines").fill("many");
        await dialog.getByText("lines takes a whole number").first().waitFor();
        const submit = dialog.getByRole("button", { name: "Submit", exact: true });
        if (!(await submit.isDisabled())) throw new Error("what does not fit can be sent");
        await field("lines").fill("3");
        await field("price").fill("2.5");
        await field("gift").check();
        await field("size").selectOption({ label: "large" });
        await field("when").fill("2030-01-02T03:04:05");
        await field("notes").fill('["fragile"]');
        await field("address").fill('{"city": "Ulm"}');
        // What was nothing is now an object with fields of its own.
        await field("address.zip").fill("8907");
        await dialog.getByText(/zip has the form/).first().waitFor();
        await field("address.zip").fill("89073");
        await dialog.getByText(/has the form/).first().waitFor({ state: "detached" });
        const found = await axe();
        if (found.length) throw new Error(found.join("\\n"));
        await submit.click();
        await page.waitForURL(/executions\\/\\d+-/);
        return page.url().split("/").at(-1);
        """
    )
    record = await console.reaches(execution_id, "completed")
    assert record.result == "3 large for Ada in Ulm, True, 2.5, ['fragile']"
    assert record.input["address"] == {"city": "Ulm", "zip": "89073"}
    assert datetime.fromisoformat(record.input["when"]).year == 2030
    # Submitted again, with another input.
    await console.goto(f"/executions/{execution_id}")
    again = await console.page.run(
        """
        await page.getByRole("button", { name: /^Actions for this/ }).first().click();
        await page.getByRole("menuitem", { name: "Submit again" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator('[name="input.lines"]').fill("4");
        await dialog.getByRole("button", { name: "Submit again" }).click();
        await page.waitForURL((url) => !url.href.endsWith(args.old));
        return page.url().split("/").at(-1);
        """,
        old=execution_id,
    )
    record = await console.reaches(again, "completed")
    assert record.result.startswith("4 large for Ada") and record.replay_of is None


async def test_the_steps_of_a_function_and_a_fork(console: Console) -> None:
    run = await console.client.submit("two.steps", {"n": 1})
    await console.reaches(run.execution_id, "completed")
    await console.goto(f"/executions/{run.execution_id}")
    fork = await console.page.run(
        """
        const steps = page.getByRole("region", { name: "Steps" });
        await steps.getByRole("row", { name: /first.*completed/ }).waitFor();
        await page.getByRole("group", { name: "State" }).getByText("halfway").waitFor();
        await steps.getByRole("row", { name: /second/ }).getByRole("button", { name: "Fork" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.locator('[name="input.n"]').fill("5");
        await dialog.getByRole("button", { name: "Fork", exact: true }).click();
        await page.waitForURL((url) => !url.href.endsWith(args.old));
        return page.url().split("/").at(-1);
        """,
        old=run.execution_id,
    )
    record = await console.reaches(fork, "completed")
    # The first step was not done again: its result is the old input's.
    assert (record.input, record.result) == ({"n": 5}, [1, 5])


async def test_the_signals_of_a_waitpoint(console: Console) -> None:
    run = await console.client.submit("ask", None)
    await console.reaches(run.execution_id, "suspended")
    await console.goto(f"/executions/{run.execution_id}")
    said = {"execution_id": run.execution_id, "name": "asked", "payload": {"by": "Ada"}}
    await console.client.call("signal.send", said)
    await console.page.run(
        """
        const panel = page.locator("section", { hasText: "Waitpoints and signals" });
        await panel.getByText("received asked").click();
        const first = panel.locator("[data-signal]").filter({ hasText: "asked" });
        await first.getByText("without a source").waitFor();
        await first.getByRole("group", { name: "Payload of asked" }).getByText("Ada").waitFor();
        if (await first.getByText("satisfied").count()) throw new Error("it did not satisfy the condition");
        const found = await axe();
        if (found.length) throw new Error(found.join("\\n"));
        """
    )
    # One that comes while they are open is shown at once.
    await console.client.call("signal.send", {**said, "name": "approved", "payload": None})
    await console.page.run(
        """
        const signals = page.locator("[data-signal]");
        await signals.filter({ hasText: "approved" }).getByText("✓ satisfied the condition").waitFor();
        if ((await signals.count()) !== 2) throw new Error("the first one is gone");
        """
    )
    await console.reaches(run.execution_id, "completed")


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

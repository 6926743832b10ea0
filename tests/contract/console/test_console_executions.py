"""The console's list of executions, one execution, and what is done to them."""

import asyncio

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

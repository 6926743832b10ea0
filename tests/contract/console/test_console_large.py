"""The console with very many executions, and with a very large flow."""

import asyncio

import pytest

from consoles import Console

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 100_000
BATCH = 1000
DRAWN = 100
"""More rows or boxes than this are never in the page at once."""
CHAINS = 1666
"""Of three members each: with the first and the last member, a flow of 5,000."""


async def test_a_hundred_thousand_executions_are_listed(console: Console) -> None:
    room = asyncio.Semaphore(4)

    async def create(first: int) -> None:
        async with room:
            await console.client.submit_many([("many", n) for n in range(first, first + BATCH)], lane="many")

    await asyncio.gather(*(create(first) for first in range(0, MANY, BATCH)))
    await console.goto("/executions?lane=many")
    table = """const table = page.getByRole("table", { name: "Executions" });"""
    listed = 0
    while listed < MANY:
        # As one who pulls the scroll bar down to its end again and again: each time the list grows, or ends.
        before = listed
        listed, drawn = await console.page.run(
            table
            + """
            const body = table.locator(".tbody");
            let [listed, drawn] = [args.listed, 0];
            for (let turn = 0; turn < 8 && listed < args.many; turn += 1) {
              await body.evaluate((each) => each.scrollTo(0, each.scrollHeight));
              const grown = (n) => Number(document.querySelector("[role=table]").ariaRowCount) > n;
              await page.waitForFunction(grown, listed);
              [listed, drawn] = await table.evaluate((each) => [
                Number(each.ariaRowCount), each.querySelectorAll(".tbody [role=row]").length,
              ]);
            }
            return [listed, drawn];
            """,
            listed=listed,
            many=MANY,
        )
        assert listed > before and 10 < drawn < DRAWN
    await console.page.run(
        table
        + """
        await page.getByText(args.all, { exact: true }).waitFor();
        // The oldest is at the end, and the keyboard is at the first.
        await table.locator(".tbody").evaluate((each) => each.scrollTo(0, each.scrollHeight));
        await table.locator(`[aria-rowindex="${args.many}"]`).waitFor();
        await page.keyboard.press("j");
        await table.locator('[aria-rowindex="1"].at').waitFor();
        """,
        all=f"{MANY:,} executions",
        many=MANY,
    )


async def test_a_flow_of_five_thousand_members(console: Console) -> None:
    chains = [(f"{step}-{n}", f"chain.{step}") for n in range(CHAINS) for step in "abc"]
    edges = [(f"a-{n}", f"b-{n}") for n in range(CHAINS)] + [(f"b-{n}", f"c-{n}") for n in range(CHAINS)]
    edges += [("first", f"a-{n}") for n in range(CHAINS)] + [(f"c-{n}", "last") for n in range(CHAINS)]
    flow = await console.client.call(
        "flow.create",
        {
            "controller_id": "test",
            "goal": "a very large one",
            "owner": "test",
            "members": [
                {"key": key, "kind": kind}
                for key, kind in [("first", "chain.first"), *chains, ("last", "chain.last")]
            ],
            "edges": [{"from": a, "to": b} for a, b in edges],
        },
    )
    await console.goto(f"/flows/{flow.flow_id}")
    await console.page.run(
        """
        await page.locator('.graph[data-boxes="5"][data-members="5000"]').waitFor();
        await page.locator(".box").getByText(/1,666 . chain\\.b/).waitFor();
        """
    )
    # What happens to a member is seen without asking for the graph again.
    await console.does("flow.start", "Start flow")
    await console.page.run(
        """
        await page.locator(".box.s-ready").getByText("first").waitFor();
        await page.locator(".box").getByText(/1,666 . chain\\.b/).click();
        // Twenty chains one by one, and what is left of each step.
        await page.locator('.graph[data-boxes="65"]').waitFor();
        await page.locator(".box").getByText(/1,646 . chain\\.c/).waitFor();
        await page.locator(".box").getByText("b-7", { exact: true }).waitFor();
        await page.getByRole("button", { name: "Collapse" }).click();
        await page.locator('.graph[data-boxes="5"]').waitFor();
        """
    )


async def test_a_large_flow_in_which_no_two_members_are_alike(console: Console) -> None:
    members = [{"key": f"m-{n}", "kind": f"kind.{n % 97}.{n // 97}"} for n in range(5000)]
    edges = [{"from": f"m-{n // 3}", "to": f"m-{n}"} for n in range(1, 5000)]
    flow = await console.client.call(
        "flow.create",
        {"controller_id": "t", "goal": "all different", "owner": "t", "members": members, "edges": edges},
    )
    await console.goto(f"/flows/{flow.flow_id}")
    drawn = await console.page.run(
        """
        await page.locator('.graph[data-boxes="5000"]').waitFor();
        await page.locator(".box").first().waitFor();
        return await page.locator(".box").count();
        """
    )
    assert 0 < drawn < 1000

"""The console with very many executions, and with a very large flow."""

import pytest

from consoles import Console

pytestmark = pytest.mark.asyncio(loop_scope="module")


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

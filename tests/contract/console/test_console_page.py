"""The console's files, its keyboard and its looks, and what the page withstands."""

import asyncio
import gzip
import http.client
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import commands
from browser import Browser
from commands import Up
from consoles import PICTURES, WAIT_S, Console
from penstock import Client
from penstock.console import server

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST_LOAD = 300 * 1024
"""Bytes, compressed: what a browser loads before the first screen is there."""
BY_LOOKS = ("color-contrast", "target-size", "scrollable-region-focusable")
"""The rules of axe whose answer depends on the theme and on the width."""


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
    schedule = await console.client.call(
        "schedule.create", {"execution": {"kind": "by.axe"}, "every_ms": 3_600_000}
    )
    await console.client.call("execution.create", {"kind": "by.axe", "parent_id": asked.execution_id})
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
        f"/executions/{asked.execution_id}": "[data-child]",
        "/flows": "[role=row][data-id]",
        f"/flows/{flow.flow_id}": ".box",
        "/lanes": "[role=row][data-id]",
        "/workers": "[role=row][data-id]",
        f"/schedules?schedule={schedule.schedule_id}": ".times",
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
            await page.run(
                """
                await page.getByRole("link", { name: "Lanes" }).click();
                await page.locator('[data-id="default"]').waitFor();
                await page.getByRole("button", { name: "Actions for all that match" }).click();
                const pause = page.getByRole("menuitem", { name: /^Pause all/ });
                await pause.getByText(/has no NATS permission for lane.pause/).waitFor();
                if ((await pause.getAttribute("aria-disabled")) !== "true") throw new Error("a viewer may choose it");
                await page.keyboard.press("Escape");
                await page.getByRole("link", { name: "Executions" }).click();
                await page.locator(args.row).waitFor();
                """,
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

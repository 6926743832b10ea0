"""A real browser (Debian's chromium, moved by playwright-core in Node) for the tests of the console."""

import asyncio
import importlib.util
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from penstock.console import server

REPOSITORY = Path(__file__).parents[1]
PACKAGES = REPOSITORY / "console" / "package.json"
WAIT_S = 120.0
"""A deadline for one piece of code, in which the browser itself waits up to 45 s for each element."""


def _node() -> Path:
    """Return the Node that builds the console (deploy/console.py)."""
    spec = importlib.util.spec_from_file_location("deploy_console", REPOSITORY / "deploy" / "console.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.node() / "node"


def needed() -> tuple[Path, str]:
    """Return Node and the browser. Skip the test, and say why, where something is missing; in CI, fail."""
    chromium = shutil.which("chromium")
    missing = server.missing() or (None if chromium else "there is no chromium on PATH")
    if missing is None and not (PACKAGES.parent / "node_modules" / "playwright-core").exists():
        missing = "playwright-core is not installed: `make console` does it"
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the console cannot be tested: {missing}")
    return _node(), str(chromium)


class Browser:
    """A browser with one page. `errors`: the exceptions that the page has thrown."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.errors: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        node, chromium = needed()
        process = await asyncio.create_subprocess_exec(
            node,
            REPOSITORY / "tests" / "browser.mjs",
            PACKAGES,
            chromium,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def run(self, code: str, **args: Any) -> Any:
        """Run JavaScript with `page` and `args`, and return its result. Raise AssertionError for what it throws."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, "args": args}).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), WAIT_S)
        assert line, "the browser has ended"
        answer = json.loads(line)
        self.errors = answer["errors"]
        if "failed" in answer:
            raise AssertionError(answer["failed"])
        return answer["value"]

    async def fresh(self, **options: Any) -> None:
        """Open a new page, without anything that the last one kept. options: width, height, colorScheme."""
        await self.run("await fresh(args)", **options)

    async def axe(self, *rules: str) -> list[str]:
        """Return what axe finds against the page as it is, by these of its rules, or by all that are of WCAG AA."""
        return await self.run("return await axe(args.rules)", rules=list(rules) or None)

    async def move(self, path: str) -> None:
        """Go to another screen as a link does it: the page is not loaded anew."""
        await self.run(
            """
            await page.locator("h1").evaluate((each) => { each.dataset.old = ""; });
            await page.evaluate((path) => history.pushState({}, "", path), args.path);
            await page.locator("h1:not([data-old])").waitFor();
            """,
            path=path,
        )

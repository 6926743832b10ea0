"""The gateway of a `penstock up`, and the lines of docs/gateway.md, run as a reader would."""

import asyncio
import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path

import httpx
import pytest

import commands
from commands import Up, clean_environment, lives

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines of docs/gateway.md need curl")
async def test_up_serves_http_as_the_docs_say(tmp_path: Path) -> None:
    [lines] = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    async with Up.open(tmp_path) as up:
        gateway = up.facts["gateway"]
        assert gateway["url"] in up.log
        for name in ("gateway.token", "gateway.tokens"):
            assert stat.S_IMODE((up.data / name).stat().st_mode) == 0o600
        scripts = str(Path(sys.executable).parent)
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", lines,
            cwd=tmp_path,
            env={**clean_environment(), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), commands.WAIT_S)
        assert process.returncode == 0, (out, err)
        assert b'{"state":"completed"}' in out and b'"event":"created"' in out
        assert json.loads((tmp_path / "openapi.json").read_text())["openapi"] == "3.1.0"

        commands.kill(gateway["pid"])
        await up.until(
            lambda: up.facts.get("gateway", {}).get("pid") not in (None, gateway["pid"]), "a new gateway"
        )
        token = await asyncio.to_thread(Path(gateway["token_file"]).read_text)
        headers = {"Authorization": f"Bearer {token.strip()}"}
        transport = httpx.AsyncHTTPTransport(retries=10)  # it may not listen again yet
        async with httpx.AsyncClient(transport=transport, headers=headers, timeout=commands.WAIT_S) as http:
            answer = await http.post(f"{gateway['url']}/v1/lane/list")
        assert answer.status_code in (200, 504)  # or not have reached NATS again
        last = up.facts["gateway"]["pid"]
    assert not lives(last)


WITHOUT = """
import sys

sys.modules["starlette"] = sys.modules["uvicorn"] = None
"""
"""Makes a Python that finds neither of them, as where the extra is not installed."""


async def test_without_the_extra_everything_else_runs_and_says_what_to_install(tmp_path: Path) -> None:
    code = f"{WITHOUT}\nfrom penstock.cli.__main__ import main\nsys.argv[0] = 'penstock'\nmain()"
    async with Up.open(tmp_path, command=(sys.executable, "-c", code)) as up:
        assert "gateway" not in up.facts and "pip install 'penstock[gateway]'" in up.log
        submitted = await commands.penstock("submit", "a.job", "1", cwd=tmp_path)
        assert submitted.code == 0
    code = f"{WITHOUT}\nfrom penstock_gateway.__main__ import main\nmain()"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 2 and b"pip install 'penstock[gateway]'" in err and b"Traceback" not in err

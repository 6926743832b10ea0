"""The programs of docs/payload-codecs.md and docs/tracing.md, run as a user runs them."""

import asyncio
import base64
import re
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from commands import clean_environment
from penstock import Worker
from penstock.codecs import AesGcm, PayloadCodec
from running_penstock import RunningPenstock

REPOSITORY = Path(__file__).parents[2]


async def run(example: str, penstock: RunningPenstock) -> str:
    told = {"PENSTOCK_NATS_URL": penstock.url, "PENSTOCK_ROOT": penstock.root}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, f"examples/{example}.py"),
        cwd=REPOSITORY,
        env={**clean_environment(), **told},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_encrypted(penstock: RunningPenstock) -> None:
    said = await run("encrypted", penstock)
    assert "charged 1111, 2000000 bytes of receipt" in said
    assert "what the services have: {'penstock.codec': {'codec': 'offload', 'of': 'aes-gcm'" in said
    await penstock.js.delete_object_store("penstock-payloads")


async def test_traced(penstock: RunningPenstock) -> None:
    said = await run("traced", penstock)
    assert "order 7 is on its way" in said
    names = re.findall(r'^    "name": "(.*)"', said, re.MULTILINE)
    assert sorted(names) == [
        "POST /orders",
        "attempt order.ship",
        "attempt order.ship",
        "pack",
        "submit order.ship",
    ]
    assert len(set(re.findall(r'"trace_id": "(.*)"', said))) == 1


@pytest.mark.parametrize(("page", "example"), [("payload-codecs", "encrypted"), ("tracing", "traced")])
def test_the_docs_show_the_examples(page: str, example: str) -> None:
    shown = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert shown[0] in (REPOSITORY / "examples" / f"{example}.py").read_text()


def test_the_tutorial_shows_the_examples() -> None:
    shown: dict[str, str] = {}
    for page in (REPOSITORY / "docs" / "tutorial").glob("*.md"):
        shown |= re.findall(r'```python title="(.+?)"\n(.*?)```', page.read_text(), re.DOTALL)
    del shown["conftest.py"]  # that of examples/ is one folder up
    examples = (REPOSITORY / "examples" / "tutorial").glob("*.py")
    assert shown == {path.name: path.read_text() for path in examples}


async def test_the_codec_of_ones_own(penstock: RunningPenstock) -> None:
    page = (REPOSITORY / "docs" / "payload-codecs.md").read_text()
    [source] = re.findall(r"```python\n(class .*?)```", page, re.DOTALL)
    made: dict[str, Any] = {"PayloadCodec": PayloadCodec, "Mapping": Mapping, "base64": base64, "zlib": zlib}
    exec(source, made)
    codec = [made["Compressed"](), AesGcm("k", {"k": bytes(32)})]
    worker = Worker(codec=codec)

    @worker.handler("echo")
    async def echo(input: str) -> str:
        return input

    await penstock.run_worker(worker)
    client = await penstock.client(codec=codec)
    assert await (await client.submit("echo", "x" * 5000)).result(20) == "x" * 5000

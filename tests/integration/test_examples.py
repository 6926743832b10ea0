"""The programs that docs/payload-codecs.md and docs/tracing.md show, run as a user runs them."""

import asyncio
import re
import sys
from pathlib import Path

from commands import clean_environment
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


def test_the_tutorial_shows_the_examples() -> None:
    shown: dict[str, str] = {}
    for page in (REPOSITORY / "docs" / "tutorial").glob("*.md"):
        shown |= re.findall(r'```python title="(.+?)"\n(.*?)```', page.read_text(), re.DOTALL)
    del shown["conftest.py"]  # that of examples/ is one folder up
    examples = (REPOSITORY / "examples" / "tutorial").glob("*.py")
    assert shown == {path.name: path.read_text() for path in examples}

"""Every block of Python and sh in the README and in docs/ is run, page by page, against a real Penstock.

The blocks of a page run in their order, in one module and one folder, with a fresh Penstock whose root is `penstock`.
`localhost:4222` stands for its address, which is in PENSTOCK_NATS_URL too. A command must exit with 0.

- ```python runs inside the test, and may `await`. `__name__` is not "__main__".
- ```python title="worker.py", or any language with a title, is written to that file; later blocks import or run it.
- ```sh is run by bash. Lines that begin with `penstock up` are left out.
- `<!-- background -->` on the line before a block of sh: each of its lines is a process that runs until the page ends.
- `<!-- not run: why -->` on the line before a block: it is not run.
- `<!-- run`, lines of Python, `-->`: code that the page does not show: what the reader has already, what he does by
  hand, what shall hold afterwards. It has `await start(worker)`, which runs a worker until the page ends;
  `await stop("worker.py", kill=True)`, which ends the background processes whose command has that text; `stack`, the
  RunningPenstock; `said`, what the last block of sh printed.
- A block that is word for word part of a file in examples/ is not run again: those have tests of their own.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from running_penstock import RunningPenstock
from snippets import REPOSITORY, Block, Reader, blocks_of, is_run

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
RUN = {page: [each for each in blocks_of(page.read_text()) if is_run(each)] for page in PAGES}


@pytest.fixture
async def stack(nats_url: str, valkey_url: str) -> AsyncIterator[RunningPenstock]:
    """A Penstock with the root `penstock`, of which nothing is left for the next page."""
    async with RunningPenstock.open(nats_url, valkey_url, root="penstock") as house:
        yield house
    async with Redis.from_url(valkey_url) as valkey:
        async for key in valkey.scan_iter("penstock:*", 1000):
            await valkey.unlink(key)


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("page", "blocks"),
    [
        pytest.param(page, blocks, id=str(page.relative_to(REPOSITORY)))
        for page, blocks in RUN.items()
        if blocks
    ],
)
async def test_the_page_does_what_it_says(
    page: Path, blocks: list[Block], stack: RunningPenstock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_NATS_URL", stack.url)
    async with Reader(page, stack, tmp_path) as reader:
        for block in blocks:
            await reader.do(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_block_escapes(page: Path) -> None:
    """A block in another name of these languages would not be run."""
    assert not re.findall(r"^ *```(?:py|python3|bash|shell|console|pycon)\b", page.read_text(), re.MULTILINE)

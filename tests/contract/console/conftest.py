"""One `penstock up`, one worker and one browser for each module of the console's tests."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from browser import needed
from consoles import Console


@pytest.fixture(scope="module", autouse=True)
def _needed() -> None:
    needed()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Console]:
    async with Console.open(tmp_path_factory.mktemp("console")) as console:
        yield console

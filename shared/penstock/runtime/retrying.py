"""Wait for a server that is not up yet: services and servers may start in any order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from penstock.backoff import Backoff
from penstock.runtime.logging import Log

T = TypeVar("T")

PAUSE: Final = (0.1, 2.0)
SAY_AFTER_S: Final = 1.0
SAY_EVERY_S: Final = 10.0


async def retrying(
    what: str, attempt: Callable[[], Awaitable[T]], log: Log, passing: Callable[[Exception], bool]
) -> T:
    """Call `attempt` until it succeeds, and return its result.

    After an error for which `passing(error)` is true, retry with backoff; raise any other error. After 1 s, and
    then every 10 s, log that the service is waiting for `what`.
    """
    last: Exception | None = None
    waited = False

    async def grumble() -> None:
        nonlocal waited
        await asyncio.sleep(SAY_AFTER_S)
        waited = True
        while True:
            log.warning(f"waiting for {what}", reason=None if last is None else str(last) or repr(last))
            await asyncio.sleep(SAY_EVERY_S)

    grumbling = asyncio.create_task(grumble())
    backoff = Backoff(*PAUSE)
    try:
        while True:
            try:
                result = await attempt()
            except Exception as error:
                if not passing(error):
                    raise
                last = error
                await asyncio.sleep(backoff.next_s())
            else:
                if waited:
                    log.info(f"found {what}")
                return result
    finally:
        grumbling.cancel()

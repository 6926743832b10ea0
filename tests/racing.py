"""Two requests at the same time: in the one order, in the other, and together."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from penstock.errors import PenstockError

TIMES = 10
"""How often two requests race each other."""
ORDERS = ["first", "second", "together"]
"""Which of the two requests goes first."""

Step = Callable[[], Coroutine[Any, Any, Any]]


async def race(order: str, first: Step, second: Step) -> tuple[Any, Any]:
    """The replies of both requests. A PenstockError is returned as a reply."""

    async def reply(step: Step) -> Any:
        try:
            return await step()
        except PenstockError as error:
            return error

    if order == "first":
        return await reply(first), await reply(second)
    if order == "second":
        late = await reply(second)
        return await reply(first), late
    one, other = await asyncio.gather(reply(first), reply(second))
    return one, other


def rounds(order: str) -> range:
    """A forced order needs one round; a race is run many times."""
    return range(TIMES if order == "together" else 1)

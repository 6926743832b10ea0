"""Wait for the end of an execution or a flow. The request is parked at a service, and asked again until the end."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

from penstock import errors
from penstock.bus.requester import Requester
from penstock.messages.common import Reply, Request
from penstock.verbs import Verb

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Reply)

# How long one wait request stays parked at a scheduler. Killing that scheduler can delay the wait by this much.
PARK_S: Final = 5.0
# The same of `execution.execute`: who gets no reply to that does not know the execution's id.
EXECUTE_S: Final = 1.0
MARGIN_S: Final = 3.0
# How long a wait without a timeout goes on asking while no scheduler answers.
UNAVAILABLE_S: Final = 60.0
PAUSE_S: Final = 0.2


async def wait_for_end(
    requester: Requester,
    verb: Verb[Req, Rep],
    request: Callable[[int], Req],
    ended: Callable[[Rep], bool],
    told: Callable[[Rep], str],
    timeout: float | None,
) -> Rep:
    """Return the reply that has `ended`. request(wait_ms): the request that stays parked for so long.

    Raise `TimeoutError` after `timeout` seconds, with what `told` says of the last reply, and `PenstockError`.
    """
    now = time.monotonic()
    end = None if timeout is None else now + timeout
    answered = now
    while True:
        left = PARK_S if end is None else min(PARK_S, end - now)
        wait_ms = max(0, round(left * 1000))
        try:
            reply = await requester.call(verb, request(wait_ms), timeout=max(left, 0.0) + MARGIN_S)
        except errors.UnavailableError:
            # The service may only be restarting: go on waiting.
            now = time.monotonic()
            if now >= (answered + UNAVAILABLE_S if end is None else end):
                raise
            await asyncio.sleep(PAUSE_S)
            continue
        if ended(reply):
            return reply
        now = answered = time.monotonic()
        if end is not None and now >= end:
            raise TimeoutError(f"{told(reply)} after {timeout:g} s")

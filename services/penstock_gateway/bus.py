"""Passes one request on to the service that answers it, byte for byte, and waits for the reply."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nats import errors as nats_errors
from nats.aio.msg import Msg

from penstock import errors
from penstock.bus import callers
from penstock.bus.connection import Connection
from penstock.bus.replies import nobody_answers
from penstock.bus.requester import FIRST_RETRY_S, PATIENCE_S
from penstock.errors import PenstockError
from penstock.verbs import Verb

_HEADROOM: Final = 1024
"""Bytes within NATS' limit for what travels with a body: subject, headers, reply subject."""
_LONGEST_WAIT_S: Final = 60.0
"""What a verb that waits for an event may wait (`wait_ms`), beside the time for its answer."""


class Bus:
    """The gateway's connection to NATS, for requests.

    timeout: seconds within which a service must answer. on_unanswered: called with the name of a service that has not.
    """

    def __init__(
        self, nats: Connection, root: str, timeout: float, on_unanswered: Callable[[str], object]
    ) -> None:
        self.nats = nats
        self.root = root
        self._timeout = timeout
        self._on_unanswered = on_unanswered
        self._waiting: dict[str, set[asyncio.Future[Msg]]] = {}
        nats.on_refused.append(self._refused)

    @property
    def max_bytes(self) -> int:
        """The largest body that NATS carries."""
        return self.nats.max_payload - _HEADROOM

    async def ask(self, verb: Verb[Any, Any], body: bytes, headers: dict[str, str]) -> Msg:
        """Send a request and return the reply. Raise `timeout` if none came, or `not_permitted` by NATS' own rules."""
        identity = self.nats.identity
        subject = callers.subject(verb, self.root, identity)
        waits = "wait_ms" in verb.request.__struct_fields__
        timeout = self._timeout + (_LONGEST_WAIT_S if waits else 0.0)
        asking = asyncio.ensure_future(self._request(verb, subject, body, headers, timeout))
        refused: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(subject.lower(), set())
        waiting.add(refused)
        try:
            done, _ = await asyncio.wait({asking, refused}, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        except PenstockError as error:
            if error.code == "timeout":
                self._on_unanswered(verb.service)
            raise
        finally:
            asking.cancel()
            refused.cancel()
            waiting.discard(refused)

    async def _request(
        self, verb: Verb[Any, Any], subject: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> Msg:
        loop = asyncio.get_running_loop()
        patience = loop.time() + min(PATIENCE_S, timeout)
        delay = FIRST_RETRY_S
        while True:
            try:
                return await self.nats.request(subject, body, timeout=timeout, headers=headers)
            except nats_errors.NoRespondersError:  # nothing was delivered: a restarting service is back soon
                if loop.time() >= patience:
                    raise nobody_answers(verb, self.root, "nobody answers") from None
            except TimeoutError:
                raise nobody_answers(verb, self.root, f"no answer within {timeout:g} s from") from None
            except (nats_errors.Error, OSError) as error:
                text = f"{verb.name} could not be sent to NATS ({type(error).__name__})"
                raise errors.make("timeout", text) from None
            await asyncio.sleep(delay)
            delay = min(delay * 2, 0.5)

    def _refused(self, subject: str) -> None:
        """Fail the requests that NATS has not let pass, instead of waiting for their replies."""
        for future in self._waiting.get(subject, ()):
            if not future.done():
                future.set_exception(
                    errors.make("not_permitted", "NATS does not let the gateway's own user ask for this")
                )

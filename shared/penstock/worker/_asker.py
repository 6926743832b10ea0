"""One request for work at a time. Replies come on an inbox of its own.

The inbox outlives each request. Tasks in a late reply (after a reconnect or a slow claim) therefore still arrive,
instead of staying leased and idle until their leases expire.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock import errors, verbs
from penstock.bus import callers
from penstock.bus.connection import Connection, identity_of
from penstock.bus.listening import listen
from penstock.bus.replies import is_no_responders, nobody_answers, refusal
from penstock.bus.requester import encode
from penstock.bus.sending import send
from penstock.messages.executions import WorkNext
from penstock.messages.leases import TaskMessage, Tasks

MARGIN_S: Final = 3.0
LOOK_S: Final = 1.0
UNSUBSCRIBE_S: Final = 2.0

_decode: Final = msgspec.json.Decoder(Tasks).decode


class Asker:
    """Asks for work, again and again. `asked` is how many tasks the request under way is for, 0 if there is none."""

    def __init__(
        self, nats: Nats, root: str, ask: WorkNext, accept: Callable[["Asker", list[TaskMessage]], None]
    ) -> None:
        """accept: called with the tasks of each reply, also of a late one."""
        self.asked = 0
        self.empty = False
        """Whether the last reply had no tasks."""
        self.error: errors.PenstockError | None = None
        """What came instead of the last reply."""
        self._nats = nats
        self._root = root
        self._subject = callers.subject(verbs.WORK_NEXT, root, identity_of(nats))
        self._ask = ask
        self._accept = accept
        self._inbox = nats.new_inbox()
        self._subscription: Subscription | None = None
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Subscribe to the inbox on which tasks arrive."""
        if isinstance(self._nats, Connection):
            self._nats.on_refused.append(self._refused)
        self._subscription = await listen(self._nats, self._inbox, self._on_reply)

    async def stop(self) -> None:
        """Stop receiving tasks. Tasks granted to a request that is still parked find no subscriber: the
        scheduler notices and puts them back in their queue at once.
        """
        if self._subscription is not None and self._nats.is_connected:
            with contextlib.suppress(nats_errors.Error, TimeoutError):
                await asyncio.wait_for(self._subscription.drain(), UNSUBSCRIBE_S)

    async def ask(self, most: int) -> bool:
        """Ask for at most so many tasks. Return False if the reply is late or lost, or the connection was remade
        meanwhile. After True, `empty` and `error` tell what came."""
        self._answered = self._loop.create_future()
        self.empty, self.error = False, None
        self.asked = self._ask.max = most
        self._watch(self._nats.stats["reconnects"], self._loop.time() + self._ask.wait_ms / 1000 + MARGIN_S)
        try:
            await send(self._nats, self._subject, encode(self._ask), self._inbox)
            return await self._answered
        except (nats_errors.Error, OSError) as error:
            self.error = errors.make("timeout", f"work.next could not be sent ({type(error).__name__})")
            return True
        finally:
            self.asked = 0
            if self._timer is not None:
                self._timer.cancel()

    def _watch(self, connection: int, until: float) -> None:
        """Give the reply up once its time is over, or the connection that it would have come on is lost."""
        now = self._loop.time()
        if now >= until or self._nats.stats["reconnects"] != connection:
            self._end(answered=False)
        else:
            self._timer = self._loop.call_later(min(LOOK_S, until - now), self._watch, connection, until)

    def _end(self, *, answered: bool) -> None:
        """End the wait for the present reply."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answered)

    def _refused(self, subject: str) -> None:
        if subject == self._subject.lower():
            self.error = errors.make("not_permitted", "NATS does not let this user ask for work")
            self._end(answered=True)

    def _on_reply(self, msg: Msg) -> None:
        if is_no_responders(msg):
            self.error = nobody_answers(verbs.WORK_NEXT, self._root, "nobody answers")
        else:
            self.error = refusal(msg)
            if self.error is None:
                try:
                    tasks = _decode(msg.data).tasks
                except msgspec.MsgspecError as bad:
                    self.error = errors.make("internal", f"the reply to work.next is malformed: {bad}")
                else:
                    self.empty = not tasks
                    self._accept(self, tasks)
        self._end(answered=True)

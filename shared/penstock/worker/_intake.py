"""Asks for work with one parked request at a time. Replies come on a separate inbox.

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
from penstock.backoff import Backoff
from penstock.bus import callers
from penstock.bus.connection import Connection, identity_of
from penstock.bus.replies import is_no_responders, nobody_answers, refusal
from penstock.bus.requester import encode, listen
from penstock.messages.executions import WorkNext
from penstock.messages.leases import TaskMessage, Tasks
from penstock.worker._outages import OutageLog

MAX_ASK: Final = 1000
MARGIN_S: Final = 3.0
UNSUBSCRIBE_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

_decode: Final = msgspec.json.Decoder(Tasks).decode


class TaskIntake:
    """Keeps asking for as many tasks as there are free slots."""

    def __init__(
        self,
        nats: Nats,
        root: str,
        ask: WorkNext,
        free_slots: Callable[[], int],
        accept: Callable[[list[TaskMessage]], None],
    ) -> None:
        self._nats = nats
        self._root = root
        self._subject = callers.subject(verbs.WORK_NEXT, root, identity_of(nats))
        self._ask = ask
        self._free_slots = free_slots
        self._accept = accept
        self._inbox = nats.new_inbox()
        self._subscription: Subscription | None = None
        self._free = asyncio.Event()
        self._answered = asyncio.Event()
        self._answered.set()
        self._empty = False
        self._error: errors.PenstockError | None = None
        self._stopping = False
        self._outages = OutageLog()

    def slot_freed(self) -> None:
        """Note that a slot may be free, so that `run` asks again."""
        self._free.set()

    async def start(self) -> None:
        """Subscribe to the inbox on which tasks arrive."""
        if isinstance(self._nats, Connection):
            self._nats.on_refused.append(self._refused)
        self._subscription = await listen(self._nats, self._inbox, self._on_reply)

    async def run(self) -> None:
        """Ask for work until stopped. Raise if the request is invalid or not permitted: repeating it cannot help."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while not self._stopping:
            free = self._free_slots()
            if free <= 0:
                self._free.clear()
                await self._free.wait()
                continue
            asked = loop.time()
            await self._send(free)
            answered = await self._answer()
            error, self._error = self._error, None
            if isinstance(error, errors.InvalidError | errors.UnauthorizedError):
                raise error
            if error is not None:
                self._outages.failed(error)
            elif answered:
                self._outages.recovered()
            if error is not None or (self._empty and loop.time() - asked < self._ask.wait_ms / 2000):
                await asyncio.sleep(backoff.next_s(((error and error.retry_after_ms) or 0) / 1000))
            elif answered:
                backoff.reset()

    async def stop(self) -> None:
        """Stop receiving tasks. Tasks granted to a request that is still parked find no subscriber: the
        scheduler notices and puts them back in their queue at once.
        """
        self._stopping = True
        if self._subscription is not None and self._nats.is_connected:
            with contextlib.suppress(nats_errors.Error, TimeoutError):
                await asyncio.wait_for(self._subscription.drain(), UNSUBSCRIBE_S)

    async def _send(self, free: int) -> None:
        self._answered.clear()
        self._empty = False
        self._ask.max = min(free, MAX_ASK)
        try:
            await self._nats.publish(self._subject, encode(self._ask), reply=self._inbox)
        except (nats_errors.Error, OSError) as error:
            self._error = errors.make("timeout", f"work.next could not be sent ({type(error).__name__})")
            self._answered.set()

    async def _answer(self) -> bool:
        """Wait for the reply. Return False if it is late or lost, or the connection was remade meanwhile."""
        loop = asyncio.get_running_loop()
        connection = self._nats.stats["reconnects"]
        end = loop.time() + self._ask.wait_ms / 1000 + MARGIN_S
        while True:
            try:
                await asyncio.wait_for(self._answered.wait(), min(1.0, max(0.0, end - loop.time())))
                return True
            except TimeoutError:
                if loop.time() >= end or self._nats.stats["reconnects"] != connection:
                    return False

    def _refused(self, subject: str) -> None:
        if subject == self._subject.lower():
            self._error = errors.make("not_permitted", "NATS does not let this user ask for work")
            self._answered.set()

    async def _on_reply(self, msg: Msg) -> None:
        if is_no_responders(msg):
            self._error = nobody_answers(verbs.WORK_NEXT, self._root, "nobody answers")
        else:
            self._error = refusal(msg)
            if self._error is None:
                try:
                    tasks = _decode(msg.data).tasks
                except msgspec.MsgspecError as bad:
                    self._error = errors.make("internal", f"the reply to work.next is malformed: {bad}")
                else:
                    self._empty = not tasks
                    if tasks:
                        self._accept(tasks)
        self._answered.set()

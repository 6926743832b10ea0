"""Sends journal entries: what one execution appends in a tick, or while a message is under way, leaves as one message.

A message without a reply is sent again until the lease is over; the service answers a repeat as it did the first.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.messages.journal import Appended, JournalAppended, NewEntry
from penstock.worker._fenced import FencedCalls
from penstock.worker._leases import Lease
from penstock.worker.durable.errors import JournalFull, TaskSuspended

ANSWER_S: Final = 5.0
FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 2.0
MOST_ENTRIES: Final = 100
"""Most entries of one message: the service stores all of them in one step, in which it does nothing else."""
MOST_BYTES: Final = 256 * 1024

Waiting = tuple[NewEntry, "asyncio.Future[Appended]"]


class Appender:
    """Appends to one execution's journal, one message at a time."""

    def __init__(self, requester: Requester, calls: FencedCalls, lease: Lease, about: dict[str, Any]) -> None:
        self._requester = requester
        self._calls = calls
        self._lease = lease
        self._about = about  # what each request says beside its entries: version, pin
        self._waiting: list[Waiting] = []
        self._sending: asyncio.Task[None] | None = None

    def add(self, entry: NewEntry) -> "asyncio.Future[Appended]":
        """Queue an entry. The future gets what became of it.

        It raises `TaskSuspended` if the lease is lost, `JournalFull`, or the service's refusal of this entry.
        """
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[Appended] = loop.create_future()
        stored.add_done_callback(_heard)
        self._waiting.append((entry, stored))
        if self._sending is None:
            # The sending task first runs in the next tick, when all entries of this tick are queued.
            self._sending = loop.create_task(self._send())
        return stored

    async def flush(self) -> None:
        """Wait until all that was queued is stored. Raise the first error. What was given up meanwhile is none."""
        waited = await asyncio.gather(*(stored for _, stored in self._waiting), return_exceptions=True)
        for each in waited:
            if isinstance(each, BaseException) and not isinstance(each, asyncio.CancelledError):
                raise each
        if self._sending is not None:
            await asyncio.shield(self._sending)

    async def take(self, most: int) -> list[Waiting]:
        """Wait for the message under way. Return what is queued behind it, for a request that carries it along.

        If that is more than `most`, it is sent by itself.
        """
        while self._sending is not None and (self._under_way or len(self._waiting) > most):
            await asyncio.wait({self._sending})
        taken, self._waiting = self._waiting, []
        return taken

    _under_way = False

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch = self._cut()
                self._under_way = True
                try:
                    await self._deliver(batch)
                finally:
                    self._under_way = False
        finally:
            self._sending = None

    def _cut(self) -> list[Waiting]:
        """Take as many entries as go into one message."""
        size = count = 0
        for entry, _ in self._waiting[:MOST_ENTRIES]:
            size += len(memoryview(entry.raw_result)) + 512
            if count and size > MOST_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _deliver(self, batch: list[Waiting]) -> None:
        try:
            reply = await self.until_answered([entry for entry, _ in batch])
        except errors.InvalidError as error:
            if len(batch) == 1:
                fail(batch, error)
                return
            for each in batch:  # one entry is invalid: it fails alone
                await self._deliver([each])
        except JournalFull as error:
            for each in batch:  # each call is told of itself
                fail([each], JournalFull(each[0].key, error.told))
        except BaseException as error:
            fail(batch, error if isinstance(error, Exception) else TaskSuspended("the handler was stopped"))
            if not isinstance(error, Exception | TaskSuspended):
                raise
        else:
            answer(batch, reply.results)

    async def until_answered(self, entries: list[NewEntry]) -> JournalAppended:
        """Send entries until a reply comes, or the lease is over: then raise `TaskSuspended`."""
        delay = FIRST_DELAY_S
        while True:
            request = self._calls.request(verbs.JOURNAL_APPEND, entries=entries, **self._about)
            try:
                answered = self._requester.send(verbs.JOURNAL_APPEND, request, timeout=ANSWER_S)
                return await self._calls.answer(answered)
            except errors.UnavailableError:
                if self._lease.lost is not None or time.monotonic() >= self._lease.expires:
                    raise TaskSuspended("the lease ran out before the journal could be reached") from None
            except errors.PenstockError as error:
                if self._lease.lost is not None:
                    raise TaskSuspended(f"the lease is lost ({self._lease.lost})") from None
                if error.code == "journal_full":
                    raise JournalFull(entries[0].key, error.message) from None
                raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_S)


def answer(batch: Iterable[Waiting], results: list[Appended]) -> None:
    """Give each queued entry its result."""
    for (_, stored), result in zip(batch, results, strict=True):
        if not stored.done():
            stored.set_result(result)


def fail(batch: Iterable[Waiting], error: BaseException) -> None:
    for _, stored in batch:
        if not stored.done():
            stored.set_exception(error)


def _heard(stored: "asyncio.Future[Appended]") -> None:
    # State and markers are appended without anyone waiting: their error shows at the next call, or at `flush`.
    if not stored.cancelled():
        stored.exception()

"""Answers a handler's requests without servers, so that it can be run over a stored journal: nothing is sent."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from penstock.bus.requester import Requester
from penstock.messages.common import Record, Reply, Request, StateReply
from penstock.messages.frames import FrameStored
from penstock.messages.journal import Appended, Entry, JournalAppended, JournalOpened, NewEntry, Parked
from penstock.messages.leases import Completed, Failed, Progress, Renewed
from penstock.messages.signals import Suspended
from penstock.verbs import Verb
from penstock.worker.durable.errors import TaskSuspended

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Reply)

FOR_EVER_MS: Final = 253_402_300_799_999


class Ended(NamedTuple):
    """How a run of a handler has ended: completed, failed, canceled, or suspended by a call that is not journaled."""

    state: str
    result: Any = None
    category: str | None = None
    reason: str = ""


class Offline(Requester):
    """The answers that the handler of one execution gets. `ended`: how it has ended; `refused`: what has no answer."""

    def __init__(self, record: Record) -> None:  # pyright: ignore[reportMissingSuperCall] - there is no connection
        self.ended: Ended | None = None
        self.refused: str | None = None
        self._record = record
        self._frames = 0
        self._answers: dict[str, Callable[[Any], Reply]] = {
            "journal.open": lambda _: JournalOpened(),
            "journal.append": self._append,
            "lease.park": lambda _: Parked(outcome="suspended"),
            "lease.renew": lambda _: Renewed(expires_at=FOR_EVER_MS, cancel_requested=False),
            "lease.progress": lambda _: Progress(progress={}),
            "lease.frame": self._frame,
            "lease.complete": self._complete,
            "lease.fail": self._fail,
            "lease.cancel": lambda _: self._end("canceled"),
            "lease.delay": lambda _: self._end("suspended"),
            "lease.await_children": lambda _: self._end("suspended"),
            "lease.suspend": self._suspend,
            "lease.release": lambda _: self._end("suspended"),
            "execution.get": lambda _: record,
        }

    def send(
        self, verb: Verb[Req, Rep], request: Req, *, timeout: float | None = None
    ) -> "asyncio.Future[Rep]":
        """Return the answer at once. What only a service can know ends the handler with `TaskSuspended`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer = self._answers.get(verb.name)
        if answer is None:
            self.refused = self.refused or verb.name
            future.set_exception(TaskSuspended(f"{verb.name} has no stored answer"))
            future.exception()
        else:
            future.set_result(answer(request))
        return future

    def fails(self, category: str, reason: str) -> None:
        """Note that the execution fails, before its compensations are run. What is noted first counts."""
        if self.ended is None:
            self.ended = Ended("failed", category=category, reason=reason)

    def _append(self, request: Any) -> JournalAppended:
        entries: list[NewEntry] = request.entries
        for entry in entries:
            if entry.kind == "compensating" and entry.error is not None:
                self.fails(entry.error.category, entry.error.reason)
        results = [Appended(key=each.key, outcome="stored", entry=_stored(each)) for each in entries]
        return JournalAppended(results=results, count=0, bytes=0)

    def _frame(self, _: Any) -> FrameStored:
        self._frames += 1
        return FrameStored(index=self._frames, count=self._frames)

    def _complete(self, request: Any) -> Completed:
        self.ended = Ended("completed", result=msgspec.json.decode(request.result))
        return Completed(state="completed")

    def _fail(self, request: Any) -> Failed:
        self.fails(request.category, request.reason)
        return Failed(outcome="terminal_failed")

    def _suspend(self, _: Any) -> Suspended:
        self._end("suspended")
        return Suspended(outcome="suspended")

    def _end(self, state: str) -> StateReply:
        self.ended = Ended(state)
        return StateReply(state=state)


def _stored(new: NewEntry) -> Entry | None:
    if new.status != "waiting":
        return None
    return Entry(n=0, key=new.key, kind=new.kind, status=new.status)

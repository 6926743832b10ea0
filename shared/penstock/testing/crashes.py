"""`crash_everywhere`: a durable function must come to the same end wherever its worker dies."""

import asyncio
import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.client import Client
from penstock.messages.common import NULL, Record
from penstock.messages.journal import Entry
from penstock.messages.leases import LeaseRevoke
from penstock.messages.signals import WaitpointGet
from penstock.states import TERMINAL
from penstock.testing.inside import LOOK_S, PATIENCE_S, Penstock
from penstock.worker import Worker
from penstock.worker.durable.losers import Left

Moment = Literal["before", "after"]
_TAPPED: Final = frozenset({"journal.append", "lease.park", "lease.complete", "lease.fail"})


class Crash(NamedTuple):
    """Where a worker died: before or after the service got this request. `keys`: of the entries that it stores."""

    moment: Moment
    verb: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.moment} {self.verb} {' '.join(self.keys)}".rstrip()


async def crash_everywhere(
    penstock: Penstock,
    worker: Worker,
    kind: str,
    input: Any = NULL,
    *,
    signals: Mapping[str, Any] | None = None,
    outcome: Callable[[Record], Any] | None = None,
    **options: Any,
) -> list[Crash]:
    """Run a durable function once for each place in its journal, and let its worker die there. Return the places.

    The first run has no crash: its outcome is what all others must have. Each further run loses its worker right
    before, or right after, one of the requests that store something (entries, a suspension, the end); another worker
    then goes on. Each step must have run as often as without a crash; once more only if it was under way in the crash.

    The clock moves on when the execution waits for a time. `signals` are sent when it waits for them, by the names of
    the waits: an event's is its topic. `outcome` makes of a record what is compared: by default state, result and
    failure. `options` are fields of `execution.create`.

    Raises `AssertionError`, which lists all places whose run ended otherwise, or did a step too often; `TimeoutError`
    if a run does not end.
    """
    look = outcome or _outcome
    dead: set[str] = set()
    plain = Scene(penstock, worker, signals or {}, dead, {})
    expected = look(await plain.play(kind, input, options))
    tried: list[Crash] = []
    wrong: list[str] = []
    for place in range(len(plain.seen)):
        for moment in ("before", "after"):
            scene = Scene(penstock, worker, signals or {}, dead, {place: moment})
            ended = look(await scene.play(kind, input, options))
            if not scene.crashes:
                continue  # what was sent together in the first run went in fewer requests
            [crash] = scene.crashes
            tried.append(crash)
            if ended != expected:
                wrong.append(f"crash {crash}: ended as {ended!r}, not {expected!r}")
            for key, times in scene.ran.items():
                if key not in plain.ran:
                    wrong.append(f"crash {crash}: {key} ran, and it did not in the run without a crash")
                    continue
                allowed = plain.ran[key] + scene.lost[key]
                if times > allowed:
                    wrong.append(f"crash {crash}: {key} ran {times} times, not {allowed}")
    if wrong:
        raise AssertionError("\n".join(wrong))
    return tried


def _outcome(record: Record) -> Any:
    return record.state, record.result, record.failure


class Scene:
    """One execution, and the workers that run it. They die at places given by number, of all requests that store.

    ran: how often each step's function has begun. lost: how many of these were under way in a crash, so that the
    journal does not count them. journal: at the end.
    """

    def __init__(
        self,
        penstock: Penstock,
        worker: Worker,
        signals: Mapping[str, Any],
        dead: set[str],
        dies_at: Mapping[int, Moment],
    ) -> None:
        self.seen: list[Crash] = []
        self.crashes: list[Crash] = []
        self.ran: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.journal: list[Entry] = []
        self._penstock, self._worker = penstock, worker
        self._signals, self._sent = signals, set[str]()
        # Ids of workers that run no more. A request for work that they have left behind may still get them some.
        self._dead = dead
        self._dies_at = dies_at
        self._execution_id = ""
        self._died = asyncio.Event()

    async def play(self, kind: str, input: Any, options: dict[str, Any]) -> Record:
        """Run one execution to its end, and return its record."""
        client = await self._penstock.client(codec=self._worker._codec)  # pyright: ignore[reportPrivateUsage]
        self._requester = Requester(self._penstock.nats, self._penstock.root)
        guest: Worker | None = None
        try:
            # The worker starts last: it might run the first steps before the id is known by which they are counted.
            self._execution_id = (await client.submit(kind, input, **options)).execution_id
            guest = await self._start()
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    if self._died.is_set():
                        self._died.clear()
                        await self._note_lost(client)
                        guest = await self._start()
                    record = await client.get(self._execution_id)
                    if record.state in TERMINAL:
                        self.journal = await _journal(client, self._execution_id)
                        return record
                    await self._move_on(client)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            crashes = ", ".join(map(str, self.crashes))
            where = f"after a crash {crashes}" if crashes else "without a crash"
            record = await client.get(self._execution_id)
            raise TimeoutError(f"{kind} {where} does not end: it is {record.state} {record.reason}") from None
        finally:
            if guest is not None:
                self._stop(guest)
            await self._requester.close()
            await client.close()

    async def _start(self) -> Worker:
        """Run a copy of the worker that counts its steps, and whose requests are watched."""
        watched = self._worker.at(self._worker.url)
        watched._handlers = {kind: self._counted(handler) for kind, handler in self._worker._handlers.items()}  # pyright: ignore[reportPrivateUsage]
        guest = await self._penstock.run_worker(watched)
        session = guest._session  # pyright: ignore[reportPrivateUsage]
        assert session is not None
        requester = session.requester
        send, dead = requester.send, False

        def tapped(verb: Any, request: Any, *, timeout: float | None = None) -> "asyncio.Future[Any]":
            nonlocal dead
            if dead:
                return _unanswered()
            if verb.name not in _TAPPED or request.execution_id != self._execution_id:
                return send(verb, request, timeout=timeout)
            place = len(self.seen)
            keys = tuple(each.key for each in getattr(request, "entries", ()))
            self.seen.append(Crash("before", verb.name, keys))
            moment = self._dies_at.get(place)
            if moment is None:
                return send(verb, request, timeout=timeout)
            self.crashes.append(Crash(moment, verb.name, keys))

            def die(_: object = None) -> None:
                nonlocal dead
                dead = True
                for lease in list(session.leases.held.values()):
                    lease.expires = 0.0
                    lease.lose("killed")
                session.leases.held.clear()
                self._stop(guest)
                self._died.set()

            if moment == "before":
                die()
                return _unanswered()
            reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

            def heard(answer: "asyncio.Future[Any]") -> None:
                answer.exception()
                die()
                reply.set_exception(_no_answer())

            send(verb, request, timeout=timeout).add_done_callback(heard)
            return reply

        requester.send = tapped
        return guest

    def _counted(self, handler: Any) -> Any:
        handler, options = copy.copy(handler), copy.copy(handler.options)
        handler.options = options
        options.on_step = self._count
        return handler

    def _count(self, execution_id: str, key: str) -> None:
        if execution_id == self._execution_id:
            self.ran[key] += 1

    def _stop(self, guest: Worker) -> None:
        """Stop a worker at once. What it gets from now on, it does not begin."""
        self._dead.add(guest.worker_id)
        if guest._session is not None:  # pyright: ignore[reportPrivateUsage]
            guest._session.runner.start = lambda lease: None  # pyright: ignore[reportPrivateUsage]
        guest.stop()
        guest.stop()

    async def _note_lost(self, client: Client) -> None:
        """Note which steps were under way in the crash: their functions had begun, and nothing was stored of that."""
        tries = {each.key: each.attempt for each in await _journal(client, self._execution_id)}
        self.lost = Counter({key: times - tries.get(key, 0) for key, times in self.ran.items()})

    async def _move_on(self, client: Client) -> None:
        """Send a signal that is waited for, or move the clock if nothing but a time is."""
        family = await self._family(client, self._execution_id)
        times: list[int] = []
        for record, entries in family:
            if record.state in ("leased", "running") and (record.lease or {}).get("worker_id") in self._dead:
                request = LeaseRevoke(execution_id=record.execution_id)
                with contextlib.suppress(errors.PenstockError):  # it has ended meanwhile
                    await self._requester.call(verbs.LEASE_REVOKE, request)
            if record.state not in TERMINAL and record.state not in ("suspended", "retry_wait"):
                return
            # Nobody waits any more for what was left in branches that were given up.
            left = {key for each in entries if each.kind in ("first", "cut") for key in Left.read(each).keys}
            waiting = [
                each for each in entries if each.status in ("waiting", "retry") and each.key not in left
            ]
            for each in waiting:
                if each.kind in ("signal", "event") and each.waitpoint_id and each.name in self._signals:
                    if each.waitpoint_id not in self._sent:
                        self._sent.add(each.waitpoint_id)
                        request = WaitpointGet(waitpoint_id=each.waitpoint_id)
                        with contextlib.suppress(
                            errors.WaitpointNotFound
                        ):  # its branch has lost a race meanwhile
                            waitpoint = await self._requester.call(verbs.WAITPOINT_GET, request)
                            await client.send_signal(
                                record.execution_id,
                                each.name,
                                self._signals[each.name],
                                waitpoint_key=waitpoint.waitpoint_key,
                            )
                    return
            if record.state == "retry_wait" and record.ready_at:
                times.append(record.ready_at)
            times += [each.until for each in waiting if each.until] if record.state == "suspended" else []
        if times:
            ahead = min(times) + 1 - await self._penstock.clock.now()
            if ahead > 0:
                self._penstock.clock.move(ahead)

    async def _family(self, client: Client, execution_id: str) -> list[tuple[Record, list[Entry]]]:
        """Return an execution and the children in its journal, at any depth, with their journals."""
        entries = await _journal(client, execution_id)
        found = [(await client.get(execution_id), entries)]
        for each in entries:
            if each.child_id is not None:
                found += await self._family(client, each.child_id)
        return found


async def _journal(client: Client, execution_id: str) -> list[Entry]:
    return [entry async for entry in client.journals.read(execution_id)]


def _no_answer() -> Exception:
    return errors.make("timeout", "the worker is dead")


def _unanswered() -> "asyncio.Future[Any]":
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    answer.set_exception(_no_answer())
    answer.exception()  # heard: a dead worker's errors are nobody's
    return answer

"""The second half of `work.next`: claims what a scheduler granted, and answers the worker directly.

The tasks go out with a reply subject of our own. A worker that is gone has no subscription on its inbox, so
nats-server answers that subject with "no responders" at once, and the leases go back to their queue without
waiting to expire.
"""

import asyncio
import itertools
import logging
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock import verbs
from penstock.bus.codec import codec_of
from penstock.bus.endpoints import unsubscribe
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.leases import Claims
from penstock.store import Store
from penstock.subjects import claims_subject
from penstock_lease_keeper import inputs

log: Final = logging.getLogger(__name__)

KEEP_S: Final = 10.0
"""How long an answer may turn out to be undeliverable; the server tells within a round trip."""
_decode = msgspec.msgpack.Decoder(Claims).decode


class Fence(NamedTuple):
    execution_id: str
    attempt_index: int
    lease_id: str
    lease_epoch: int


class Handover:
    """From the scheduler's claims to the worker's answer."""

    def __init__(self, store: Store, nats: Client, root: str, payload_limit: int) -> None:
        self._store = store
        self._nats = nats
        self._root = root
        self._limit = payload_limit
        self._codec = codec_of(verbs.WORK_NEXT)
        self._queue: list[Msg] = []
        self._sent: dict[str, list[Fence]] = {}
        self._numbers = itertools.count(1)
        self._inbox = nats.new_inbox()
        self._tasks: set[asyncio.Task[None]] = set()
        self._claims: Subscription
        self._returns: Subscription

    async def start(self) -> None:
        """Begins to take claims: before the service says that it is ready, for a scheduler that nobody listens to
        makes the worker's request end with "no responders"."""
        self._claims = await self._nats.subscribe(
            claims_subject(self._root),
            queue=f"{self._root}-{verbs.LEASE_KEEPER}",
            cb=self._arrived,
            pending_msgs_limit=1_000_000,
            pending_bytes_limit=-1,
        )
        self._returns = await self._nats.subscribe(f"{self._inbox}.*", cb=self._returned)
        await self._nats.flush()

    async def run(self) -> None:
        """Until it is cancelled; what has arrived by then is still claimed and answered."""
        try:
            await asyncio.Event().wait()
        finally:
            await unsubscribe(self._nats, [self._claims])
            await asyncio.sleep(0)  # what came last is flushed
            while self._tasks:
                await asyncio.wait(self._tasks)
            await unsubscribe(self._nats, [self._returns])

    async def _arrived(self, msg: Msg) -> None:
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._flush)
        self._queue.append(msg)

    def _flush(self) -> None:
        messages, self._queue = self._queue, []
        self._spawn(self._claim(messages))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a handover failed, its leases will expire", exc_info=error)

    async def _claim(self, messages: list[Msg]) -> None:
        """Claims for all messages of one tick, in one call."""
        asked = [(msg.reply, _decode(msg.data)) for msg in messages]
        replies = iter(
            await self._store.call_many(
                [
                    (
                        partition_of(execution_id),
                        "claim",
                        {
                            "execution_id": execution_id,
                            "grant_id": grant_id,
                            "worker_id": claims.worker_id,
                            "lease_ttl_ms": claims.lease_ttl_ms,
                            "start": claims.start,
                            "verb": "any",
                        },
                    )
                    for _, claims in asked
                    for grant_id, execution_id in claims.grants
                ]
            )
        )
        for reply_to, claims in asked:
            tasks: list[dict[str, Any]] = []
            for grant_id, execution_id in claims.grants:
                reply = next(replies)
                if isinstance(reply, PenstockError):
                    # Cancelled or expired in between; whatever it is, the execution knows best.
                    log.info("grant %s of %s was not claimed: %s", grant_id, execution_id, reply)
                    continue
                await self._add(tasks, reply)
            await self._answer(reply_to, tasks)

    async def _add(self, tasks: list[dict[str, Any]], reply: dict[str, Any]) -> None:
        fence = _fence(reply)
        task = inputs.task(reply, self._limit)
        if isinstance(task, PenstockError):
            await self._refuse(fence, task)
        else:
            tasks.append(task)

    async def _refuse(self, fence: Fence, error: PenstockError) -> None:
        """An input that no worker can be sent: the execution fails, retrying would not help."""
        command = {**fence._asdict(), "reason": error.message, "category": error.code}
        [reply] = await self._store.call_many([(partition_of(fence.execution_id), "refuse", command)])
        if isinstance(reply, PenstockError):
            log.warning("%s could not be failed: %s", fence.execution_id, reply)

    async def _answer(self, reply_to: str, tasks: list[dict[str, Any]]) -> None:
        """Sends the tasks, in as few messages as NATS carries; past the first, they go back to the queue."""
        fitting: list[dict[str, Any]] = []
        room = self._nats.max_payload - 4096
        back: list[Fence] = []
        for task in tasks:
            room -= len(task["input"] or "") + 1024
            if fitting and room < 0:
                back.append(_fence(task))
            else:
                fitting.append(task)
        token = str(next(self._numbers))
        self._sent[token] = [_fence(task) for task in fitting]
        asyncio.get_running_loop().call_later(KEEP_S, self._sent.pop, token, None)
        body, headers = self._codec.encode([{"tasks": fitting}], True)
        try:
            await self._nats.publish(reply_to, body, headers=headers, reply=f"{self._inbox}.{token}")
        except NatsError as error:
            log.warning("tasks could not be sent: %s", error)
            back += self._sent.pop(token, [])
        if back:
            await self._give_back(back)

    async def _returned(self, msg: Msg) -> None:
        """The worker is gone: no responders on its inbox."""
        if msg.headers and msg.headers.get("Status") == "503":
            fences = self._sent.pop(msg.subject.rpartition(".")[2], None)
            if fences:
                self._spawn(self._give_back(fences))

    async def _give_back(self, fences: list[Fence]) -> None:
        replies = await self._store.call_many(
            [(partition_of(fence.execution_id), "give_back", fence._asdict()) for fence in fences]
        )
        lost = [reply for reply in replies if isinstance(reply, PenstockError)]
        if lost:
            log.warning("%d leases could not be given back, they will expire: %s", len(lost), lost[0])


def _fence(task: dict[str, Any]) -> Fence:
    return Fence(task["execution_id"], task["attempt_index"], task["lease_id"], task["lease_epoch"])

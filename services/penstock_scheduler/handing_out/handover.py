"""The last step of `work.next`: send tasks to the worker that asked, and take them back if the worker is gone.

The tasks go out with a reply subject of our own. A worker that is gone has no subscription on its inbox, so
nats-server answers "no responders" on that subject at once. The executions then return to their queues at once,
instead of waiting for their leases to expire.
"""

import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock import verbs
from penstock.bus.codec import codec_of
from penstock.bus.listening import listen, unsubscribe
from penstock.bus.sending import send
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.machine.tasks import sendable

log: Final = logging.getLogger(__name__)

KEEP_S: Final = 10.0
"""How long an answer may at least be reported as undeliverable; nats-server reports that within a round trip."""


class Fence(NamedTuple):
    execution_id: str
    attempt_index: int
    lease_id: str
    lease_epoch: int


class Handover:
    """Sends leased tasks to workers, and gives back the leases of tasks that cannot be delivered."""

    def __init__(
        self,
        machine: Machine,
        nats: Client,
        payload_limit: int,
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self._machine = machine
        self._nats = nats
        self._limit = payload_limit
        self._spawn = spawn
        self._codec = codec_of(verbs.WORK_NEXT)
        # In two generations of KEEP_S: a timer for each answer would wake this process once more for each.
        self._sent: dict[str, list[Fence]] = {}
        self._sent_before: dict[str, list[Fence]] = {}
        self._sent_since = 0.0
        self._numbers = itertools.count(1)
        self._inbox = nats.new_inbox()
        self._returns: Subscription | None = None

    async def start(self) -> None:
        """Subscribe to the reports of undeliverable answers. Call it before the first answer."""
        self._returns = await listen(self._nats, f"{self._inbox}.*", self._returned)

    async def stop(self) -> None:
        """Unsubscribe. Call it after the last answer."""
        if self._returns is not None:
            await unsubscribe(self._nats, [self._returns])

    async def answer(self, reply_to: str, found: Sequence[ops.Task]) -> bool:
        """Send as many of the tasks as fit into one message; put the others back in their queues.

        Return False if none of the tasks can be sent: the worker then still waits.
        """
        fitting: list[ops.Task] = []
        sent: list[Fence] = []
        back: list[Fence] = []
        room = self._nats.max_payload - 4096
        for each in found:
            fence = _fence(each)
            task = sendable(each, self._limit)
            if isinstance(task, PenstockError):
                await self._refuse(fence, task)
                continue
            # JSON has names and quotes for what is packed in the journal.
            room -= len(task.raw_input or "") + 1024
            if task.journal is not None:
                room -= 2 * task.journal.bytes + 256 * len(task.journal.items)
            if fitting and room < 0:
                back.append(fence)
            else:
                fitting.append(task)
                sent.append(fence)
        if fitting:
            await self._send(reply_to, fitting, sent)
        if back:
            await self._give_back(back)
        return bool(fitting)

    async def _send(self, reply_to: str, tasks: list[ops.Task], fences: list[Fence]) -> None:
        token = str(next(self._numbers))
        self._remember(token, fences)
        body, headers = self._codec.encode([{"tasks": tasks}], True)
        try:
            await send(self._nats, reply_to, body, f"{self._inbox}.{token}", headers)
        except NatsError as error:
            log.warning("tasks could not be sent: %s", error)
            self._forget(token)
            await self._give_back(fences)

    def _remember(self, token: str, fences: list[Fence]) -> None:
        now = time.monotonic()
        if now - self._sent_since >= KEEP_S:
            self._sent, self._sent_before, self._sent_since = {}, self._sent, now
        self._sent[token] = fences

    def _forget(self, token: str) -> list[Fence] | None:
        return self._sent.pop(token, None) or self._sent_before.pop(token, None)

    async def _refuse(self, fence: Fence, error: PenstockError) -> None:
        """Fail an execution whose input is too large to send to any worker; a retry would not help."""
        try:
            await self._machine.run(ops.Refuse(**fence._asdict(), reason=error.message, category=error.code))
        except PenstockError as refusal:
            log.warning("%s could not be failed: %s", fence.execution_id, refusal)

    def _returned(self, msg: Msg) -> None:
        """Give the leases back if nats-server reports that the worker is gone (503, no responders on its inbox)."""
        if msg.headers and msg.headers.get("Status") == "503":
            fences = self._forget(msg.subject.rpartition(".")[2])
            if fences:
                self._spawn(self._give_back(fences))

    async def _give_back(self, fences: list[Fence]) -> None:
        replies = await self._machine.run_many([ops.GiveBack(**fence._asdict()) for fence in fences])
        lost = [reply for reply in replies if isinstance(reply, PenstockError)]
        if lost:
            log.warning("%d leases could not be given back, they will expire: %s", len(lost), lost[0])


def _fence(task: ops.Task) -> Fence:
    return Fence(task.execution_id, task.attempt_index, task.lease_id, task.lease_epoch)

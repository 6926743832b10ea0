"""A minimal timed worker: `work.next` and `lease.complete`, nothing else. The figures routing and depth use it."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock import Client, verbs
from penstock.messages.executions import WorkNext
from penstock.messages.leases import Tasks

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Tasks).decode
_WAIT_MS = 5000


class Claimer:
    """A worker that claims one task at a time. `samples`: seconds from each `work.next` to its task."""

    def __init__(self, client: Client, worker_id: str, capabilities: Sequence[str] = ()) -> None:
        self.samples: list[float] = []
        self._client = client
        self._subject = verbs.WORK_NEXT.subject(client.root)
        self._ask = _encode(
            WorkNext(
                worker_id=worker_id,
                lanes=["default"],
                capabilities=list(capabilities),
                max=1,
                wait_ms=_WAIT_MS,
                start=True,
            )
        )

    async def claim(self) -> bool:
        """Request and receive one task (the timed part), and complete it. Return False if there was none."""
        started = time.perf_counter()
        reply = await self._client.nats.request(self._subject, self._ask, timeout=_WAIT_MS / 1000 + 3)
        taken = time.perf_counter() - started
        tasks = _decode(reply.data).tasks
        for task in tasks:
            self.samples.append(taken)
            await self._client.call("lease.complete", fence(task))
        return bool(tasks)


def fence(task: Any) -> dict[str, Any]:
    return {
        name: getattr(task, name) for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")
    }

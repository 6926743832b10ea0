"""The end of a soak: wait until everything that the audit trail knows of has ended."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Final

import nats.errors

from penstock import Client
from soak import streams
from soak.load import LANES, shop

LOOK_S: Final = 1.0
TERMINAL: Final = {
    "execution": {"completed", "failed", "canceled"},
    "flow": {"finished", "failed", "cancelled"},
    "schedule": {"finished"},
}


class Ending:
    """Follows the audit stream until everything in it has ended."""

    def __init__(self, client: Client) -> None:
        name = client.root.upper()
        self.audit = streams.Copy(f"{name}_AUDIT")
        self.dead = streams.Copy(f"{name}_DEAD")
        self._work = [f"{name}_{each}" for each in ("SIGNALS", "OBSERVATIONS", "EVENTS_IN")]
        self._client = client
        self._looked = 0
        self._states: dict[tuple[str, str], str] = {}

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        """The audit stream so far, as (sequence, body)."""
        return [(place, body) for place, body, _ in self.audit.messages]

    @property
    def dead_ids(self) -> list[str]:
        """The message ids of the dead letters so far."""
        return [headers.get("Penstock-Message-Id", "") for _, _, headers in self.dead.messages]

    def open(self) -> list[tuple[str, str]]:
        """Return the entities that have not ended, by the trail so far."""
        for _, body, _ in self.audit.messages[self._looked :]:
            event = json.loads(body)
            if event["entity"] in TERMINAL and event["to"]:
                self._states[event["entity"], event["id"]] = event["to"]
        self._looked = len(self.audit.messages)
        return [key for key, state in self._states.items() if state not in TERMINAL[key[0]]]

    async def wait(
        self, loading: asyncio.Task[None], patience_s: float, say: Callable[[str], None]
    ) -> float | None:
        """Wait until the load's stories, its entities and all streams of work are done, and the trail has it all.

        Return how long that took, or None after `patience_s`.
        """
        began = time.monotonic()
        marks: list[str] | None = None
        while time.monotonic() - began < patience_s:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await self.audit.follow(self._client.nats)
                await self.dead.follow(self._client.nats)
                open_ones = self.open()
                say(f"{time.monotonic() - began:.0f} s: {len(open_ones)} have not ended")
                if open_ones or not loading.done() or not await self._handled():
                    continue
                if marks is None:
                    marks = await self._mark()
                elif all(self._states.get(("execution", id)) for id in marks):
                    return time.monotonic() - began
        return None

    async def _handled(self) -> bool:
        connection = self._client.nats
        empty = [await streams.is_empty(connection, name) for name in self._work]
        return all(empty) and await streams.all_handled(connection, shop(self._client.root))

    async def _mark(self) -> list[str]:
        """Create executions in every partition: what the trail has before these is all that happened before."""
        many = [("soak.quick", None)] * 16
        return [run.execution_id for run in await self._client.submit_many(many, lane=LANES[0])]

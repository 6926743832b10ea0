"""flow.observe and flow.steps."""

from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.flows import FlowSteps, Observe
from penstock.store import Store

SLICE: Final = 200
"""Steps of one look, so that no look holds Valkey for long."""
PAGE_BYTES: Final = 512 * 1024
"""Results past which a page ends: it must fit a message."""
_STEP: Final[dict[str, Any]] = {"result": None, "child_session_key": None}


class Steps:
    """Handlers about steps."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def observe(self, call: Call[Observe]) -> Sequence[Any]:
        answers = await self._store.call_many(
            [(partition_of(item.flow_id), "observe", item) for item in call.items]
        )
        return [answer if isinstance(answer, PenstockError) else _STEP | answer for answer in answers]

    async def list(self, call: Call[FlowSteps]) -> Sequence[Any]:
        item = call.items[0]
        items: list[dict[str, Any]] = []
        room = PAGE_BYTES
        after: int | None = int(item.cursor or 0)
        while after is not None and len(items) < item.limit and room > 0:
            page = await self._store.call(
                partition_of(item.flow_id),
                "steps",
                {
                    "flow_id": item.flow_id,
                    "after": after,
                    "limit": min(SLICE, item.limit - len(items)),
                    "bytes": room,
                },
            )
            items += page["items"]
            room -= sum(len(step.get("result") or "") for step in page["items"])
            after = page.get("after")
        return [{"items": [_STEP | step for step in items], "cursor": None if after is None else str(after)}]

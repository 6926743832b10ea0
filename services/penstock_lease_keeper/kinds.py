"""kind.list, and what workers tell of their kinds when they register: the schema of a kind's input, for people."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.calls import Call
from penstock.errors import invalid
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.messages.workers import KindInfo, KindList, Schema

HOME: Final = 0
"""The partition that keeps all kinds: there are few, and they are told only when a worker starts."""
MAX_BYTES: Final = 64 * 1024
"""The most bytes of one schema."""
SLICE: Final = 50
"""So many kinds are told in one call of the state machine."""


class Kinds:
    """Handlers for kinds."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def tell(self, schemas: Mapping[str, Schema], lanes: list[str]) -> None:
        """Keep what a worker tells. Raise `invalid_request` for a schema that is too long."""
        told = [_told(kind, schema) for kind, schema in schemas.items()]
        slices = [told[i : i + SLICE] for i in range(0, len(told), SLICE)]
        await self._machine.all_of(
            [ops.KindsTell(told=each, lanes=lanes) for each in slices], [HOME] * len(slices)
        )

    async def list(self, call: Call[KindList]) -> Sequence[Any]:
        page = await self._machine.run(ops.KindList.of(call.items[0]), at=HOME)
        return [{"items": [_info(each) for each in page.items], "cursor": page.cursor}]


def _told(kind: str, schema: Schema) -> ops.KindTold:
    text = None if schema.input is None else msgspec.json.encode(schema.input).decode()
    if text is not None and len(text) > MAX_BYTES:
        raise invalid(f"schemas.{kind}.input", f"is longer than {MAX_BYTES} bytes")
    return ops.KindTold(kind, text, schema.description)


def _info(kept: ops.KindKept) -> KindInfo:
    return KindInfo(
        kind=kept.kind,
        input=None if kept.input is None else msgspec.json.decode(kept.input),
        description=kept.description,
        lanes=kept.lanes,
        registered_at=kept.registered_at,
    )

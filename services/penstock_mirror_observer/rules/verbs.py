"""mirror_rule.put, .get, .list, .delete and .test."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from penstock.bus.endpoints import Call
from penstock.errors import invalid, make
from penstock.machine import Machine
from penstock.machine.ops import mirror_observer as ops
from penstock.messages.mirror_rules import (
    MirrorRule,
    MirrorRuleGet,
    MirrorRuleList,
    MirrorRulePut,
    MirrorRuleTest,
    MirrorRuleTested,
)
from penstock_mirror_observer.rules.rule import Rule
from penstock_mirror_observer.rules.sources import Message

RULES_AT: Final = 0
"""The partition that keeps the rules."""


class Rules:
    """Handlers about rules; their verbs take no batches."""

    def __init__(self, machine: Machine, js: JetStreamContext, root: str) -> None:
        self._machine = machine
        self._js = js
        self._root = root

    async def put(self, call: Call[MirrorRulePut]) -> Sequence[Any]:
        item = call.items[0]
        self._check(item)
        if item.stream is not None:
            await self._check_stream(item.stream)
        body = msgspec.json.encode(item).decode()
        return [_shown(await self._machine.run(ops.RulePut(name=item.name, body=body), at=RULES_AT))]

    def _check(self, item: MirrorRulePut) -> None:
        first = item.subject.split(".")[0]
        if first in (self._root, "*", ">"):
            raise invalid(
                "subject", f"meets Penstock's own subjects ({self._root}.>): begin with another token"
            )
        if ">" in item.subject.removesuffix(".>"):
            raise invalid("subject", "`>` may only be its last token")
        Rule(item)

    async def _check_stream(self, stream: str) -> None:
        if stream.startswith(f"{self._root.upper()}_"):
            raise invalid("stream", "is one of Penstock's own")
        try:
            await self._js.stream_info(stream)  # pyright: ignore[reportUnknownMemberType]
        except NotFoundError:
            raise invalid("stream", f"there is no JetStream stream {stream!r}: make it first") from None
        except (NatsError, TimeoutError) as error:
            raise make("timeout", f"JetStream does not answer ({type(error).__name__}); try again") from None

    async def get(self, call: Call[MirrorRuleGet]) -> Sequence[Any]:
        return [_shown(await self._machine.run(ops.RuleGet.of(call.items[0]), at=RULES_AT))]

    async def list(self, call: Call[MirrorRuleList]) -> Sequence[Any]:
        page = await self._machine.run(ops.RuleList.of(call.items[0]), at=RULES_AT)
        return [{"items": [_shown(each) for each in page.items], "cursor": page.cursor}]

    async def delete(self, call: Call[MirrorRuleGet]) -> Sequence[Any]:
        return [_shown(await self._machine.run(ops.RuleDelete.of(call.items[0]), at=RULES_AT))]

    async def test(self, call: Call[MirrorRuleTest]) -> Sequence[Any]:
        item = call.items[0]
        self._check(item.rule)
        sample = item.sample
        message = Message(sample.subject, sample.headers, msgspec.json.encode(sample.data))
        found = Rule(item.rule).read(message)
        if isinstance(found, str):
            return [MirrorRuleTested(dropped=found)]
        observation = {
            "run_id": found.run_id,
            "task": found.task,
            "status": found.status,
            "result": None if found.result is None else msgspec.json.decode(found.result),
            "observed_at": found.observed_at,
            "child_session_key": found.child_session_key,
        }
        return [MirrorRuleTested(observation=observation, flow_id=found.flow_id, key=found.key)]


def _shown(kept: ops.RuleKept) -> MirrorRule:
    fields: dict[str, Any] = msgspec.json.decode(kept.body)
    return MirrorRule(
        **fields,
        revision=kept.revision,
        seen=kept.seen,
        applied=kept.applied,
        dropped=kept.dropped,
        last_error=kept.last_error,
        last_at=kept.last_at,
    )

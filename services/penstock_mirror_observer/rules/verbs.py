"""The verbs mirror_rule.put, .get, .list, .delete and .test; and the subject checks that triggers share."""

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
"""The partition that stores the rules and triggers."""


class Subjects:
    """Checks which subjects and streams a rule or trigger may follow."""

    def __init__(self, js: JetStreamContext, root: str) -> None:
        self._js = js
        self._root = root

    def check(self, subject: str) -> None:
        """Raise PenstockError("invalid_request") if a subject is malformed or overlaps Penstock's own subjects."""
        if subject.split(".")[0] in (self._root, "*", ">"):
            raise invalid(
                "subject", f"meets Penstock's own subjects ({self._root}.>): begin with another token"
            )
        if ">" in subject.removesuffix(".>"):
            raise invalid("subject", "`>` may only be its last token")

    async def check_stream(self, stream: str | None) -> None:
        """Raise PenstockError: `invalid_request` if the stream is missing or Penstock's own, `timeout`."""
        if stream is None:
            return
        if stream.startswith(f"{self._root.upper()}_"):
            raise invalid("stream", "is one of Penstock's own")
        try:
            await self._js.stream_info(stream)  # pyright: ignore[reportUnknownMemberType]
        except NotFoundError:
            raise invalid("stream", f"there is no JetStream stream {stream!r}: make it first") from None
        except (NatsError, TimeoutError) as error:
            raise make("timeout", f"JetStream does not answer ({type(error).__name__}); try again") from None


class Rules:
    """Handlers of the verbs about mirror rules. These verbs take no batches."""

    def __init__(self, machine: Machine, subjects: Subjects) -> None:
        self._machine = machine
        self._subjects = subjects

    async def put(self, call: Call[MirrorRulePut]) -> Sequence[Any]:
        item = call.items[0]
        self._check(item)
        await self._subjects.check_stream(item.stream)
        put = ops.RulePut(kind="rule", name=item.name, body=msgspec.json.encode(item).decode())
        return [_shown(await self._machine.run(put, at=RULES_AT))]

    def _check(self, item: MirrorRulePut) -> None:
        self._subjects.check(item.subject)
        Rule(item)

    async def get(self, call: Call[MirrorRuleGet]) -> Sequence[Any]:
        return [_shown(await self._machine.run(ops.RuleGet.of(call.items[0], kind="rule"), at=RULES_AT))]

    async def list(self, call: Call[MirrorRuleList]) -> Sequence[Any]:
        page = await self._machine.run(ops.RuleList.of(call.items[0], kind="rule"), at=RULES_AT)
        return [{"items": [_shown(each) for each in page.items], "cursor": page.cursor}]

    async def delete(self, call: Call[MirrorRuleGet]) -> Sequence[Any]:
        return [_shown(await self._machine.run(ops.RuleDelete.of(call.items[0], kind="rule"), at=RULES_AT))]

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

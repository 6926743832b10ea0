"""A mirror rule at work: each message becomes an observation of a step."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from penstock.errors import PenstockError
from penstock.ids import partition_for, partition_of
from penstock.machine import Machine, Op
from penstock.machine.ops import mirror_observer as ops
from penstock_mirror_observer.rules.follower import Follower, Incoming
from penstock_mirror_observer.rules.rule import Observed, Rule

KNOWN: Final = 50_000
"""Most keys whose flow ids are cached in memory."""


class Wanted(NamedTuple):
    """An observation to apply, and the place of its message in the batch."""

    place: int
    incoming: Incoming
    observed: Observed


class Mirroring(Follower):
    """A mirror rule at work. A step remembers the ids of its messages, so each message is applied once."""

    kind = "rule"

    def __init__(self, machine: Machine, rule: Rule) -> None:
        super().__init__(rule.name, rule.subject, rule.stream, rule.revision)
        self.rule = rule
        self._machine = machine
        self._flows: dict[str, str] = {}

    async def apply(self, batch: Sequence[Incoming]) -> list[bool]:
        """Apply messages. Return for each whether it is done; False (Valkey is away) asks for a redelivery."""
        done = [True] * len(batch)
        wanted: list[Wanted] = []
        for place, incoming in enumerate(batch):
            observed = self.rule.read(incoming.message)
            if isinstance(observed, str):
                self.drop(observed)
            else:
                wanted.append(Wanted(place, incoming, observed))
        if gone := await self._observe(wanted, done):  # their flows have retired since they were cached
            for each in await self._observe(gone, done):
                self.drop(f"flow_not_found: there is no flow of {each.observed.key!r} any more")
        self.seen += done.count(True)
        return done

    async def _observe(self, wanted: Sequence[Wanted], done: list[bool]) -> list[Wanted]:
        """Apply observations. Set `done` to False where Valkey is away. Return those of a key whose flow is gone."""
        flows = await self._find([each.observed.key for each in wanted if each.observed.key])
        asked: list[tuple[Wanted, Op[Any]]] = []
        for each in wanted:
            key = each.observed.key
            flow_id = each.observed.flow_id if key is None else flows.get(key)
            if isinstance(flow_id, PenstockError):
                done[each.place] = not flow_id.retryable
                if done[each.place]:
                    self.drop(str(flow_id))
            elif flow_id is None:
                self.drop(f"flow.key: no flow has {key!r}, and the rule makes none")
            elif partition_of(flow_id) >= self._machine.partitions:
                self.drop(f"flow.id: there is no flow {flow_id!r}")
            else:
                asked.append((each, _apply(flow_id, each.incoming, each.observed)))
        answers = await self._machine.run_many([op for _, op in asked])
        gone: list[Wanted] = []
        for (each, _), answer in zip(asked, answers, strict=True):
            if not isinstance(answer, PenstockError):
                self.applied += 1
            elif answer.retryable:
                done[each.place] = False
            elif answer.code == "flow_not_found" and each.observed.key is not None:
                gone.append(each)
            else:
                self.drop(f"{answer.code}: {answer.message}")
        for each in gone:
            self._flows.pop(each.observed.key or "", None)
        return gone

    async def _find(self, keys: Sequence[str]) -> dict[str, str | PenstockError | None]:
        """Return the flow id (or error, or None) of each key. Create missing flows if the rule says how."""
        found: dict[str, str | PenstockError | None] = {}
        missing: list[str] = []
        for key in dict.fromkeys(keys):
            if (known := self._flows.get(key)) is not None:
                found[key] = known
            else:
                missing.append(key)
        replies = await self._machine.run_many([self._flow_of(key) for key in missing])
        for key, reply in zip(missing, replies, strict=True):
            if isinstance(reply, PenstockError) or reply is None:
                found[key] = reply
            else:
                found[key] = self._flows[key] = reply.flow_id
        while len(self._flows) > KNOWN:
            del self._flows[next(iter(self._flows))]
        return found

    def _flow_of(self, key: str) -> ops.RuleFlow:
        partition = partition_for(f"rule:{self.rule.name}:{key}", self._machine.partitions)
        create = self.rule.create
        new = None
        if create is not None:
            new = ops.NewFlow(
                controller_id=create.controller_id,
                owner=create.owner,
                goal=create.goal.replace("{key}", key),
                namespace=create.namespace,
                completion=create.completion,
                completion_task=create.completion_task,
            )
        return ops.RuleFlow(rule=self.rule.name, key=key, id=self._machine.new_id(partition), create=new)


def _apply(flow_id: str, incoming: Incoming, observed: Observed) -> ops.Apply:
    return ops.Apply(
        flow_id=flow_id,
        run_id=observed.run_id,
        task=observed.task,
        status=observed.status,
        result=observed.result,
        observed_at=observed.observed_at,
        child_session_key=observed.child_session_key,
        message_id=incoming.message_id,
        published_at=incoming.published_at if observed.observed_at is None else None,
    )

"""Follows rules: one subscription, or one durable consumer of somebody else's stream, for each.

Instances share the messages of a rule: a queue group on core NATS (best effort), the durable on JetStream (each
message is applied once, for a step remembers its messages).
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock.bus.consumer import ACK, Consumer, Outcome, Retry
from penstock.bus.endpoints import unsubscribe
from penstock.bus.published import read as read_published
from penstock.errors import PenstockError
from penstock.ids import partition_for, partition_of, uuid7
from penstock.machine import Machine, Op
from penstock.machine.ops import mirror_observer as ops
from penstock.messages.mirror_rules import MirrorRulePut
from penstock.runtime.logging import Log
from penstock_mirror_observer.rules.rule import Observed, Rule
from penstock_mirror_observer.rules.sources import Message

EVERY_S: Final = 0.8
"""Rules that changed are noticed by a hint, and at the latest after so long."""
KNOWN: Final = 50_000
"""Keys whose flows are kept in memory."""
PENDING: Final = 65_536
"""Messages of a rule on core NATS that may wait here; past that some are lost, as core NATS does."""


class Incoming(NamedTuple):
    """A message that a rule is to read. published_at: microseconds by JetStream's clock; None on core NATS."""

    message: Message
    message_id: str
    published_at: int | None


class Follower:
    """One rule at work."""

    def __init__(self, machine: Machine, rule: Rule, log: Log) -> None:
        self.rule = rule
        self.seen = self.applied = self.dropped = 0
        self.last_error: str | None = None
        self._machine = machine
        self._log = log
        self._flows: dict[str, str] = {}
        self._subscription: Subscription | None = None
        self._consumer: Consumer | None = None
        self._waiting: list[Incoming] = []
        self._working: asyncio.Task[None] | None = None

    # -- where messages come from -----------------------------------------------------------------

    async def start(self, nats: Client, root: str) -> None:
        name = f"{root}-rule-{self.rule.name}"
        self._nats = nats
        if self.rule.stream is None:
            self._subscription = await nats.subscribe(
                self.rule.subject, queue=name, cb=self._arrived, pending_msgs_limit=PENDING
            )
        else:
            # Another subject is another durable: it begins where the stream does.
            part = hashlib.blake2b(self.rule.subject.encode(), digest_size=4).hexdigest()
            self._consumer = Consumer(
                self.rule.stream, f"{name}-{part}", self._handle, subject=self.rule.subject
            )
            await self._consumer.start(nats, root)

    async def stop(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await unsubscribe(self._nats, [self._subscription])
        if self._working is not None:
            await self._working

    async def _arrived(self, msg: Msg) -> None:
        message = Message(msg.subject, dict(msg.headers or {}), msg.data)
        message_id = message.headers.get("nats-msg-id") or uuid7()
        self._waiting.append(Incoming(message, message_id, None))
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        """Applies what has gathered, batch by batch."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:256], self._waiting[256:]
                try:
                    await self.apply(batch)
                except PenstockError as error:
                    self._drop(str(error), len(batch))
        finally:
            self._working = None

    async def _handle(self, messages: list[Msg]) -> Sequence[Outcome]:
        incoming: list[Incoming] = []
        for msg in messages:
            published = read_published(msg, "")
            message = Message(msg.subject, dict(msg.headers or {}), msg.data)
            incoming.append(Incoming(message, published.message_id, published.published_at))
        return [ACK if done else Retry() for done in await self.apply(incoming)]

    # -- what becomes of them ---------------------------------------------------------------------

    async def apply(self, batch: Sequence[Incoming]) -> list[bool]:
        """Whether each is dealt with; what is not is to come again (Valkey is away)."""
        self.seen += len(batch)
        read = [self.rule.read(each.message) for each in batch]
        flows = await self._find([each.key for each in read if isinstance(each, Observed) and each.key])
        observations: list[tuple[int, Op[Any]]] = []
        done = [True] * len(batch)
        for place, (incoming, observed) in enumerate(zip(batch, read, strict=True)):
            if isinstance(observed, str):
                self._drop(observed)
                continue
            flow_id = observed.flow_id if observed.key is None else flows.get(observed.key)
            if isinstance(flow_id, PenstockError):
                done[place] = not flow_id.retryable
                if done[place]:
                    self._drop(str(flow_id))
            elif flow_id is None:
                self._drop(f"flow.key: no flow has {observed.key!r}, and the rule makes none")
            elif partition_of(flow_id) >= self._machine.partitions:
                self._drop(f"flow.id: there is no flow {flow_id!r}")
            else:
                observations.append((place, _apply(flow_id, incoming, observed)))
        answers = await self._machine.run_many([op for _, op in observations])
        for (place, _), answer in zip(observations, answers, strict=True):
            if not isinstance(answer, PenstockError):
                self.applied += 1
            elif answer.retryable:
                done[place] = False
            else:
                self._drop(f"{answer.code}: {answer.message}")
                self._flows.clear()  # a flow may have left
        self.seen -= done.count(False)
        return done

    async def _find(self, keys: Sequence[str]) -> dict[str, str | PenstockError | None]:
        """The flows of these keys, made where the rule says so."""
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

    def _drop(self, why: str, count: int = 1) -> None:
        self.dropped += count
        self.last_error = why[:512]

    def counted(self) -> ops.RuleCount | None:
        """What was done since this was asked last; None for nothing."""
        if not (self.seen or self.applied or self.dropped):
            return None
        count = ops.RuleCount(
            name=self.rule.name,
            seen=self.seen,
            applied=self.applied,
            dropped=self.dropped,
            last_error=self.last_error,
        )
        self.seen = self.applied = self.dropped = 0
        self.last_error = None
        return count


class Following:
    """All rules at work in this process, kept as they stand in Valkey."""

    def __init__(self, machine: Machine, nats: Client, root: str, log: Log) -> None:
        self._machine = machine
        self._nats = nats
        self._root = root
        self._log = log
        self._version = -1
        self._followers: dict[str, Follower] = {}
        self._changed = asyncio.Event()

    def changed(self, _partition: int, _value: object) -> None:
        """The `rules` hint."""
        self._changed.set()

    async def run(self) -> None:
        """Follows what there is, and looks again at every hint and every moment."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._look()
                    await self._count()
                except PenstockError as error:
                    if not error.retryable:
                        raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY_S):
                        await self._changed.wait()
        finally:
            for follower in self._followers.values():
                await follower.stop()
            self._followers.clear()
            self._version = -1

    async def _look(self) -> None:
        version = (await self._machine.run(ops.RulesVersion(), at=0)).version
        if version == self._version:
            return
        kept: dict[str, ops.RuleKept] = {}
        cursor: str | None = None
        while True:
            page = await self._machine.run(ops.RuleList(cursor=cursor, limit=100), at=0)
            kept |= {each.name: each for each in page.items}
            if (cursor := page.cursor) is None:
                break
        for name, follower in list(self._followers.items()):
            if name not in kept or kept[name].revision != follower.rule.revision:
                await self._tell([follower])
                await follower.stop()
                del self._followers[name]
        for name, each in kept.items():
            if name not in self._followers:
                await self._follow(each)
        self._version = version

    async def _follow(self, kept: ops.RuleKept) -> None:
        try:
            rule = Rule(msgspec.json.decode(kept.body, type=MirrorRulePut), kept.revision)
        except (PenstockError, msgspec.MsgspecError) as error:  # a newer Penstock's
            self._log.error("a mirror rule cannot be followed here", rule=kept.name, error=str(error))
            return
        follower = self._followers[kept.name] = Follower(self._machine, rule, self._log)
        await follower.start(self._nats, self._root)

    async def _count(self) -> None:
        await self._tell(list(self._followers.values()))

    async def _tell(self, followers: Sequence[Follower]) -> None:
        counts = [count for follower in followers if (count := follower.counted()) is not None]
        await self._machine.run_many(counts, [0] * len(counts))


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

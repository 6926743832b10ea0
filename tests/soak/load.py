"""The load: stories of random kinds, each from its first request to its end, at a bounded rate and number.

A story repeats a request until it is answered, as a user's program would, and notes only what was acknowledged.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats.errors

from penstock import Client, PenstockError
from soak.journal import Journal, Tail
from soak.worker import LANES

MOST_AT_ONCE: Final = 150
STORY_S: Final = 30.0
"""Seconds for which a story waits for its end. What takes longer, behind a long fault, ends without it."""


def shop(root: str) -> str:
    """Return the name of the stream of another system, which a mirror rule and a trigger follow."""
    return f"SOAK_{root.upper()}"


class Load:
    """Random stories, until `stop`. `counts`: stories by kind, and refusals by error code."""

    def __init__(self, client: Client, journal: Journal, tail: Tail, seed: int, rate: float) -> None:
        self.counts: Counter[str] = Counter()
        self._client = client
        self._js = client.nats.jetstream()
        self._journal = journal
        self._tail = tail
        self._prefix = f"soak-{client.root}"
        self._random = random.Random(seed)
        self._rate = rate
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._open: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._stopping = False
        self._broken: BaseException | None = None
        self._quotas: list[tuple[str, int]] = []
        self._budgets: list[str] = []
        self._stories: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._one, 10),
            (self._unique, 2),
            (self._canceled, 2),
            (self._parent, 2),
            (self._voted, 3),
            (self._spending, 2),
            (self._flow, 3),
            (self._waiting_flow, 2),
            (self._mirrored, 2),
            (self._ordered, 2),
            (self._scheduled, 1),
        ]
        self.has_all = asyncio.Event()
        """Set once a story of each kind has begun."""
        self._missing = {story.__name__ for story, _ in self._stories}

    @property
    def open(self) -> int:
        """How many stories have begun and not ended."""
        return len(self._open)

    async def prepare(self) -> None:
        """Make what all stories share: quotas, budgets, the shop's stream, its mirror rule and its trigger."""
        await self._js.add_stream(name=shop(self._client.root), subjects=[f"{self._prefix}.>"])
        for most in (1, 3):
            quota = await self._client.quotas.create(max_concurrent=most)
            self._quotas.append((quota.quota_id, most))
        for hard in (200, 10_000_000):
            limits = {"tokens": {"soft": hard // 2, "hard": hard}}
            budget = await self._client.budgets.create(limits, reset_every_ms=3000)
            self._budgets.append(budget.budget_id)
        await self._client.mirror_rules.put(
            {
                "name": "soak",
                "subject": f"{self._prefix}.step.>",
                "stream": shop(self._client.root),
                "flow": {"id": {"token": 3}},
                "run_id": {"jmespath": "run"},
                "task": {"const": "step"},
                "status": {"jmespath": "status"},
                "observed_at": {"jmespath": "at"},
            }
        )
        await self._client.triggers.put(
            {
                "name": "soak",
                "subject": f"{self._prefix}.order.>",
                "stream": shop(self._client.root),
                "execution": {"kind": "soak.triggered", "lane": LANES[0], "input": {"jmespath": "@"}},
            }
        )

    async def clean_up(self) -> None:
        """Remove what outlives a Penstock that is gone: the stream; and the rule and trigger that follow it."""
        await self._client.mirror_rules.delete("soak")
        await self._client.triggers.delete("soak")
        await self._js.delete_stream(shop(self._client.root))

    async def run(self) -> None:
        """Begin stories until `stop`, and publish the signals that workers ask for. Raise what breaks a story."""
        signals = asyncio.create_task(self._publish_signals())
        try:
            while not self._stopping and not signals.done():
                await asyncio.sleep(self._random.expovariate(self._rate))
                await self._room.acquire()
                stories, weights = zip(*self._stories, strict=True)
                [story] = self._random.choices(stories, weights)
                self._missing.discard(story.__name__)
                if not self._missing:
                    self.has_all.set()
                task = asyncio.create_task(self._told(story))
                self._open.add(task)
                task.add_done_callback(self._ended)
            while self._open:
                await asyncio.wait(self._open)
            if signals.done():
                signals.result()
            if self._broken is not None:
                raise self._broken
        finally:
            signals.cancel()

    def stop(self) -> None:
        self._stopping = True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._room.release()
        if error := task.exception():  # no fault explains it: it ends the soak
            self._broken = self._broken or error
            self.stop()

    async def _told(self, story: Callable[[], Awaitable[None]]) -> None:
        try:
            await story()
            self.counts[story.__name__.strip("_")] += 1
        except PenstockError as error:
            self.counts[f"refused: {error.code}"] += 1
        except (TimeoutError, nats.errors.Error):
            self.counts["ended without its story"] += 1

    # -- stories ----------------------------------------------------------------------------------

    async def _one(self) -> None:
        """An execution of a random kind, with random options."""
        rng = self._random
        kind, input = rng.choice(
            [
                ("soak.quick", None),
                ("soak.slow", {"seconds": round(rng.uniform(0.05, 1.5), 2)}),
                ("soak.flaky", {"failures": rng.randint(1, 3)}),
                ("soak.doomed", None),
                ("soak.later", {"seconds": round(rng.uniform(0.1, 3), 2)}),
            ]
        )
        options: dict[str, Any] = {"max_attempts": 5}
        if rng.random() < 0.3:
            options["priority"] = rng.randint(0, 9)
        if rng.random() < 0.2:
            options["run_at"] = int(time.time() * 1000) + rng.randint(100, 3000)
        quota = rng.choice(self._quotas) if rng.random() < 0.2 else None
        if quota:
            options["quota_id"] = quota[0]
        told = {"quota": quota[0], "most": quota[1]} if quota else {}
        run = await self._submit(kind, input, told, **options)
        await run.wait(STORY_S)

    async def _unique(self) -> None:
        key = f"only-{self._random.randint(1, 5)}"
        run = await self._submit("soak.slow", {"seconds": 0.3}, {"unique": key}, unique_key=key)
        await run.wait(STORY_S)

    async def _canceled(self) -> None:
        run = await self._submit("soak.slow", {"seconds": 1.0}, {})
        await asyncio.sleep(self._random.uniform(0, 1))
        cancel = lambda: self._client.cancel(run.execution_id, "soak", grace_ms=1000)  # noqa: E731
        await self._ask(cancel, "already_terminal")
        await run.wait(STORY_S)

    async def _parent(self) -> None:
        run = await self._submit("soak.parent", {"children": self._random.randint(1, 4)}, {})
        await run.wait(STORY_S)

    async def _voted(self) -> None:
        run = await self._submit("soak.voted", {"votes": self._random.randint(1, 3)}, {})
        await run.wait(STORY_S)

    async def _spending(self) -> None:
        budget = self._random.choice(self._budgets)
        input = {"budget": budget, "tokens": self._random.randint(1, 60)}
        run = await self._submit("soak.spend", input, {}, budget_ids=[budget])
        await run.wait(STORY_S)

    async def _flow(self) -> None:
        """A random graph, with joins; some flows are cancelled on the way."""
        rng = self._random
        keys = [f"m{n}" for n in range(rng.randint(2, 8))]
        edges = [
            (one, other)
            for n, other in enumerate(keys)
            for one in rng.sample(keys[:n], k=min(n, rng.randint(0, 2)))
        ]
        joined = [key for key in keys if sum(to == key for _, to in edges) > 1]
        joins = {key: {"policy": rng.choice(["all_of", "any_of"])} for key in joined}
        flow = await self._make_flow(keys, edges, joins)
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0, 0.5))
            policy = rng.choice(["cancel_all", "cancel_pending"])
            await self._ask(lambda: flow.cancel(policy, "soak", grace_ms=1000), "already_terminal")
        await flow.wait(STORY_S)

    async def _waiting_flow(self) -> None:
        """One or two flows wait for an event, which wakes each once. They begin late, so that they can wait first."""
        flows = [
            await self._make_flow(["a", "b"], [("a", "b")], {}, run_at=int(time.time() * 1000) + 1000)
            for _ in range(self._random.randint(1, 2))
        ]
        id = self._next("event")
        waiting = []
        for flow in flows:
            # A service that was frozen answers late: its request must not count once the flow has gone on.
            revision = (await self._ask(flow.get)).revision
            # A flow that waits already, at another revision, has taken a request whose answer was lost.
            asked = await self._ask(
                lambda flow=flow, revision=revision: flow.wait_for_event(
                    "soak", id, expected_revision=revision
                ),
                "illegal_transition",
                "already_terminal",
                "revision_mismatch",
            )
            if asked is not None or (await self._ask(flow.get)).status == "waiting":
                waiting.append(flow)
        await self._ask(lambda: self._client.publish_event("soak", id, {"n": 1}, event_id=id))
        self._journal.note("event", id=id, flows=[flow.flow_id for flow in waiting])
        if self._random.random() < 0.2:
            await self._ask(lambda: self._client.publish_event("soak", id, {"n": 1}, event_id=id))
        for flow in flows:
            await flow.wait(STORY_S)

    async def _mirrored(self) -> None:
        """A flow that another system runs: its steps are published, to us or to the stream that a rule follows."""
        key = self._next("mirrored")
        flow = await self._ask(
            lambda: self._client.flows.create_mirrored(key, completion="all_steps", idempotency_key=key)
        )
        self._journal.note("flow", id=flow.flow_id)
        by_rule = self._random.random() < 0.5
        runs = [f"r{n}" for n in range(self._random.randint(1, 3))]
        at = int(time.time() * 1000)
        for n, status in enumerate(("pending", "running", "succeeded")):
            for run in runs:
                await self._observe(flow, run, status, at + n, by_rule)
        await flow.wait(STORY_S)

    async def _observe(self, flow: Any, run: str, status: Any, at: int, by_rule: bool) -> None:
        message = self._next("observation")
        if by_rule:
            body = b'{"run": "%s", "status": "%s", "at": %d}' % (run.encode(), status.encode(), at)
            await self._publish(f"{self._prefix}.step.{flow.flow_id}", body, message)
        else:
            await self._ask(
                lambda: flow.publish_observation(run, "step", status, observed_at=at, message_id=message)
            )
        self._journal.note("observation", flow=flow.flow_id, run=run, status=status, at=at, message=message)

    async def _ordered(self) -> None:
        id = self._next("order")
        for _ in range(2 if self._random.random() < 0.2 else 1):
            await self._publish(f"{self._prefix}.order.{id}", b"{}", id)
        self._journal.note("triggered", id=id)

    async def _scheduled(self) -> None:
        rng = self._random
        times: dict[str, Any] = (
            {"at": int(time.time() * 1000) + rng.randint(1000, 5000)}
            if rng.random() < 0.3
            else {"every_ms": rng.randint(100, 600), "count": rng.randint(2, 8)}
        )
        key = self._next("schedule")
        lane = rng.choice(LANES)
        made = await self._ask(
            lambda: self._client.schedules.create("soak.quick", lane=lane, idempotency_key=key, **times)
        )
        self._journal.note("schedule", id=made.schedule_id)

    # -- what stories do --------------------------------------------------------------------------

    async def _publish_signals(self) -> None:
        """Publish the signals for each waitpoint that a worker has noted; some of them twice, some too many."""
        while True:
            for line in await asyncio.to_thread(lambda: list(self._tail.news())):
                if line["what"] == "waitpoint":
                    surplus = self._random.random() < 0.1
                    for n in range(line["votes"] + surplus):
                        await self._signal(line["waitpoint"], line["token"], f"{line['waitpoint']}-{n}")
            await asyncio.sleep(0.1)

    async def _signal(self, waitpoint: str, token: str, id: str) -> None:
        for _ in range(2 if self._random.random() < 0.1 else 1):
            await self._ask(lambda: self._client.publish_signal(waitpoint, "vote", token, signal_id=id))
        self._journal.note("signal", waitpoint=waitpoint, id=id)

    async def _submit(self, kind: str, input: Any, told: dict[str, Any], **options: Any) -> Any:
        """Create an execution; some are created again with the same idempotency key."""
        options.setdefault("lane", self._random.choice(LANES))
        if "unique_key" not in options:
            options["idempotency_key"] = told["key"] = self._next("execution")
        for _ in range(2 if self._random.random() < 0.1 else 1):
            run = await self._ask(lambda: self._client.submit(kind, input, **options))
            self._journal.note("execution", id=run.execution_id, **told)
        return run

    async def _make_flow(self, keys: list[str], edges: list[Any], joins: dict[str, Any], **spec: Any) -> Any:
        """Make and start a flow; `spec`: further fields of each member."""
        name = self._next("flow")
        members = [
            {"key": key, "kind": "soak.step", "lane": self._random.choice(LANES), **spec} for key in keys
        ]
        flow = await self._ask(
            lambda: self._client.flows.create(
                name, members=members, edges=edges, joins=joins, idempotency_key=name
            )
        )
        self._journal.note("flow", id=flow.flow_id)
        await self._ask(flow.start, "illegal_transition", "already_terminal")
        return flow

    async def _publish(self, subject: str, body: bytes, id: str) -> None:
        await self._ask(lambda: self._js.publish(subject, body, timeout=2, headers={"Nats-Msg-Id": id}))

    async def _ask(self, call: Callable[[], Awaitable[Any]], *done: str) -> Any:
        """Repeat a call until it is answered. Return None for an error that says that it is done already."""
        while True:
            try:
                return await call()
            except PenstockError as error:
                if error.code in done:
                    return None
                if not error.retryable:
                    raise
                self.counts[f"asked again: {error.code}"] += 1
            except (nats.errors.Error, TimeoutError):
                self.counts["asked again: NATS"] += 1
            await asyncio.sleep(0.2)

    def _next(self, what: str) -> str:
        self._numbers += 1
        return f"{what}-{self._numbers}"

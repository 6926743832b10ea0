"""Compare mirror rules at work with the plain-Python model in rules_reference.py.

The real rule engine of two mirror-observers runs on a real Valkey; only NATS is played here, which hands messages out
in any order, again and again, to any observer.
"""

import asyncio
from typing import Any

import msgspec
from base_of_models import Model
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from profile_of_models import PROFILE
from rules_reference import Observer, Rules, Sent, Variant
from state_dump import StateDump

from penstock.ids import new_id
from penstock_mirror_observer.rules.follower import Follower, Incoming
from penstock_mirror_observer.rules.following import Following
from penstock_mirror_observer.rules.sources import Message

RETENTION = 600_000
NAMES = ("r", "s")
WORDS = {"queued": "pending", "go": "running", "ok": "succeeded", "error": "failed"}
VARIANTS = (
    Variant(tuple(WORDS), makes=True),
    Variant(tuple(WORDS), makes=True, completion="on_task"),
    Variant(("go", "ok", "error"), makes=True, completion="all_steps"),
    Variant(tuple(WORDS), makes=False),
)
name = st.sampled_from(["r", "r", "s"])
observer = st.sampled_from([0, 0, 1])
MESSAGE = st.tuples(
    st.sampled_from(["k", "k", "l"]),
    st.sampled_from(["a", "a", "b"]),
    st.sampled_from(["task", "task", "last"]),
    st.sampled_from([*WORDS, "ok", "odd"]),
    st.sampled_from([None, None, 10, 20]),
)
DELIVERY = st.tuples(
    st.just("deliver"),
    name,
    observer,
    st.integers(1, 6),
    st.sampled_from(["in order", "reversed"]),
    st.sampled_from(["acked", "acked", "dies", "lost ack", "both"]),
)
HAPPENING = st.one_of(
    st.tuples(st.just("put"), name, st.sampled_from(VARIANTS)),
    st.tuples(st.just("put"), name, st.sampled_from(VARIANTS)),
    st.tuples(st.just("delete"), name),
    st.tuples(st.just("publish"), st.lists(MESSAGE, min_size=1, max_size=6)),
    st.tuples(st.just("publish"), st.lists(MESSAGE, min_size=1, max_size=6)),
    DELIVERY,
    DELIVERY,
    DELIVERY,
    st.tuples(st.just("look"), observer),
    st.tuples(st.just("look"), observer),
    st.tuples(st.just("count"), observer),
    st.tuples(st.just("retire")),
)
"""What befalls rules: the name of a method, and its arguments."""


class NoNats:
    """Stands in for NATS: whatever is followed, the test itself hands the messages out."""

    is_connected = False

    def jetstream(self) -> "NoNats":
        return self

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, *_: Any, **__: Any) -> "NoNats":
        return self

    async def unsubscribe(self) -> None:
        pass


class MirrorRules(Model):
    """`stream` holds all messages of the other system, `acked` which of them each rule's durable has done with."""

    @initialize(variant=st.sampled_from(VARIANTS))
    def open(self, variant: Variant) -> None:
        self.begin({"retention_ms": RETENTION})
        self.rooms = StateDump(self.redis, self.machine.root, RETENTION)
        self.rules = Rules()
        self.stream: list[Sent] = []
        self.acked: dict[str, set[int]] = {each: set() for each in NAMES}
        self.engines = [self._engine(), self._engine()]
        self.put("r", variant)
        for number in range(2):
            self.look(number)

    def _engine(self) -> Following:
        machine = self.machine.stores["mirror-observer"].machine
        nats: Any = NoNats()
        log: Any = None
        return Following(machine, nats, self.machine.root, 5.0, log)

    @rule(then=st.lists(HAPPENING, min_size=3, max_size=12))
    def life(self, then: list[tuple[Any, ...]]) -> None:
        for what, *args in then:
            getattr(self, what)(*args)
            self.agrees()

    # -- rules ------------------------------------------------------------------------------------

    def put(self, name: str, variant: Variant) -> None:
        body: dict[str, Any] = {
            "name": name,
            "subject": "other.*",
            "flow": {"key": {"token": 2}},
            "run_id": {"jmespath": "run"},
            "task": {"jmespath": "task"},
            "status": {"jmespath": "state", "map": {word: WORDS[word] for word in variant.words}},
            "result": {"jmespath": "n"},
            "observed_at": {"header": "At"},
        }
        if variant.makes:
            create = {"controller_id": "c", "owner": "o", "completion": variant.completion}
            if variant.completion == "on_task":
                create["completion_task"] = "last"
            body["flow"]["create"] = create
        kept = self._call("rule_put", kind="rule", name=name, body=msgspec.json.encode(body).decode())
        assert kept["revision"] == self.rules.put(name, variant)

    def delete(self, name: str) -> None:
        """Delete a rule. One that takes its name later follows the stream from its beginning."""
        if name in self.rules.stored:
            self._call("rule_delete", kind="rule", name=name)
            del self.rules.stored[name]
            self.acked[name].clear()

    # -- observers --------------------------------------------------------------------------------

    def look(self, number: int) -> None:
        self.runner.run(self.engines[number]._look())
        self.rules.look(self.rules.observers[number])

    def count(self, number: int) -> None:
        self.runner.run(self.engines[number]._count())
        for each in NAMES:
            self.rules.tell(self.rules.observers[number], each)

    def publish(self, messages: list[tuple[str, str, str, str, int | None]]) -> None:
        for fields in messages:
            self.stream.append(Sent(len(self.stream) + 1, *fields))

    def deliver(self, name: str, number: int, most: int, order: str, fate: str) -> None:
        """Hand messages to an observer that follows the rule. Its acknowledgements may be lost, or it may die."""
        follower = self.engines[number]._followers.get(("rule", name))
        assert (follower is not None) == (name in self.rules.observers[number].follows)
        batch = [sent for sent in self.stream if sent.number not in self.acked[name]][:most]
        if order == "reversed":
            batch.reverse()
        if follower is None or not batch:
            return
        other = self.engines[1 - number]._followers.get(("rule", name))
        if fate == "both" and other is not None and other.revision == follower.revision:
            self.runner.run(self._apply([follower, other], batch))
            self.rules.apply(self.rules.observers[1 - number], name, batch)
        else:
            self.runner.run(self._apply([follower], batch))
        self.rules.apply(self.rules.observers[number], name, batch)
        if fate in ("acked", "both"):
            self.acked[name] |= {sent.number for sent in batch}
        elif fate == "dies":
            self.engines[number] = self._engine()
            self.rules.observers[number] = Observer()

    async def _apply(self, followers: list[Follower], batch: list[Sent]) -> None:
        done = await asyncio.gather(*(follower.apply([*map(_incoming, batch)]) for follower in followers))
        assert done == [[True] * len(batch) for _ in followers]

    # -- time, and what must hold -----------------------------------------------------------------

    def retire(self) -> None:
        self.machine.skew_ms += 2 * RETENTION
        self.runner.run(self.machine.due("scheduler"))
        self.rules.retire()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "rules"):
            return
        self.rooms.look()
        self.rooms.check()
        assert len(self.rooms.flows) == len(self.rules.flows), "one flow for each key"
        for (name, key), flow in self.rules.flows.items():
            flow_id = self._call("rule_flow", rule=name, key=key, id=new_id(0))["flow_id"]
            assert self.rooms.flows[flow_id]["status"] == flow.status
            news = sum(event.name == "observed" for event in self.rooms.events["flow", flow_id])
            assert news == flow.news, "a message was applied twice, or not at all"
            steps = self._call("steps", flow_id=flow_id, after=0, limit=100, bytes=100_000)["items"]
            seen = {step["run_id"]: (step["task"], step["status"], step["result"]) for step in steps}
            assert seen == {
                run_id: (step.task, step.status, str(step.result)) for run_id, step in flow.steps.items()
            }
        listed = {each["name"]: each for each in self._call("rule_list", kind="rule", limit=100)["items"]}
        assert listed.keys() == self.rules.stored.keys()
        for name, stored in self.rules.stored.items():
            kept, counts = listed[name], stored.counts
            assert (kept["seen"], kept["applied"], kept["dropped"]) == (
                counts.seen,
                counts.applied,
                counts.dropped,
            )
            assert ("last_error" in kept) == stored.told_of_an_error

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self.runner.run(self.machine("mirror-observer", op, **args))


def _incoming(sent: Sent) -> Incoming:
    body = msgspec.json.encode({"run": sent.run_id, "task": sent.task, "state": sent.state, "n": sent.number})
    headers = {} if sent.at is None else {"At": str(sent.at)}
    return Incoming(Message(f"other.{sent.key}", headers, body), f"m{sent.number}", sent.number)


def test_mirror_rules_against_the_model() -> None:
    run_state_machine_as_test(
        MirrorRules, settings=settings(PROFILE, max_examples=3 * PROFILE.max_examples, stateful_step_count=4)
    )

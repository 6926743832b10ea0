"""A model of work under limits in two partitions whose messages to each other come late or never.

The reference is the meaning of a limit: which jobs hold a lease now, when each began, and that every job with room is
handed out in the end. As in the other models, durations are odd multiples of 30 s and the clock moves in minutes.
"""

from collections import defaultdict
from typing import Any

from base_of_models import Model
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from limit_commands import (
    ASK,
    CREATE,
    EVERYTHING,
    FENCE,
    HALF,
    LIMITS,
    LONG,
    MINUTE,
    NAMES,
    PARTITIONS,
    WINDOW,
    Call,
    Grant,
    Job,
    Token,
    number,
)
from profile_of_models import PROFILE

from penstock.errors import PenstockError
from penstock.ids import new_id, partition_of
from penstock.machine.kinds import takes
from state_machine import taken_of


class Limits(Model):
    """`mail` holds the undelivered messages between partitions, `grants` the grants that schedulers work on."""

    @initialize(
        creates=st.lists(CREATE, min_size=3, max_size=12),
        focus=st.permutations(NAMES),
        many=st.integers(1, 3),
        post=st.sampled_from(["quick", "slow", "slow", "lost"]),
    )
    def open(self, creates: list[dict[str, Any]], focus: list[str], many: int, post: str) -> None:
        """Begin an example with a few of the limits and one kind of mail trouble."""
        self.begin(LIMITS)
        self.jobs: dict[str, Job] = {}
        self.grants: list[Grant] = []
        self.mail: list[tuple[str, list[Any]]] = []
        self.starts: defaultdict[str, list[int]] = defaultdict(list)
        self.calls = 0
        self.mail_is = post
        self.budget_id = new_id(0)
        tokens = {
            "one": Token("c/0/1/k", 1),
            "two": Token("c/1/2/l", 2),
            "per_window": self._quota(0, per_window=2),
            "both": self._quota(1, concurrent=2, per_window=3),
            "single": self._quota(1, concurrent=1),
            "budget": Token(f"b/{self.budget_id}", left=2),
        }
        self.budget = tokens["budget"]
        self.tokens = [tokens[name] for name in focus[:many]]
        budget = {"dimensions": {"n": {"hard": 2}}, "on_hard": "deny", "namespace": "default"}
        self._call("scheduler", 0, "budget_create", id=self.budget_id, **budget)
        self.submit(creates)

    def _quota(self, partition: int, **rule: int) -> Token:
        quota_id = new_id(partition)
        window = WINDOW if "per_window" in rule else None
        made = {"max_per_window": rule.get("per_window"), "window_ms": window}
        self._call(
            "scheduler", partition, "quota_create", id=quota_id, max_concurrent=rule.get("concurrent"), **made
        )
        return Token(f"q/{quota_id}", **rule)

    def teardown(self) -> None:
        try:
            if hasattr(self, "tokens"):
                self.everything_runs_in_the_end()
        finally:
            super().teardown()

    # -- calls ------------------------------------------------------------------------------------

    def _calls(self, service: str, calls: list[Call]) -> list[Any]:
        """Send the calls, one FCALL per partition. Put the resulting hints to other partitions into the mail."""

        async def call() -> list[Any]:
            taken = [(home, op, taken_of(service, op, args)) for home, op, args in calls]
            return await self.machine.stores[service].call_many(taken)

        self.calls += len(calls)
        replies = self.runner.run(call())
        self.machine.hints, hints = [], self.machine.hints
        if self.mail_is == "lost":
            return replies
        for topics in hints:
            self.mail += [
                (name, item) for name in ("slot", "slot_check", "unblock") for item in topics.get(name, ())
            ]
        return replies

    def _call(self, service: str, partition: int, op: str, **args: Any) -> dict[str, Any]:
        [reply] = self._calls(service, [(partition, op, args)])
        assert not isinstance(reply, PenstockError), reply
        return reply

    def _due(self, service: str, partition: int) -> None:
        more = True
        while more:
            reply = self._call(service, partition, "due", limit=100)
            assert not reply.get("errors"), reply
            more = reply["more"]

    # -- rules ------------------------------------------------------------------------------------

    @rule(creates=st.lists(CREATE, min_size=1, max_size=3))
    def submit(self, creates: list[dict[str, Any]]) -> None:
        self._schedule(creates[: max(0, 16 - len(self._alive()))])

    @rule(commands=st.lists(st.one_of(CREATE, ASK, ASK), min_size=1, max_size=4))
    def schedule(self, commands: list[dict[str, Any]]) -> None:
        self._schedule(commands)

    @rule(asks=st.lists(st.tuples(st.sampled_from([0, 0, 1]), ASK), min_size=1, max_size=3))
    def take(self, asks: list[tuple[int, dict[str, Any]]]) -> None:
        """Take the usual way: admit and claim each grant at once. Some requests come a minute later."""
        for minutes, ask in asks:
            self.machine.skew_ms += minutes * MINUTE
            before = len(self.grants)
            self._schedule([{**ask, **EVERYTHING, "max": ask["max"]}])
            for grant in self.grants[before:]:
                while grant in self.grants:
                    self._advance(grant)

    @rule(
        steps=st.lists(st.tuples(number, st.sampled_from([True, True, True, False])), min_size=1, max_size=4)
    )
    def admit(self, steps: list[tuple[int, bool]]) -> None:
        """Let schedulers do the next step of their grants, or die before it."""
        for which, lives in steps:
            if self.grants:
                grant = self.grants[which % len(self.grants)]
                if lives:
                    self._advance(grant)
                else:
                    self.grants.remove(grant)

    @rule(which=number, fate=st.sampled_from(["arrives", "arrives", "is lost"]), many=st.integers(1, 4))
    def post(self, which: int, fate: str, many: int) -> None:
        for _ in range(min(many, len(self.mail))):
            name, item = self.mail.pop(which % len(self.mail))
            if fate == "arrives":
                self._deliver(name, item)

    @rule(
        which=number,
        op=st.sampled_from(
            [
                "complete",
                "complete",
                "fail",
                "release",
                "give_back",
                "start",
                "renew",
                "renew",
                "cancel",
                "spend",
            ]
        ),
    )
    def outcome(self, which: int, op: str) -> None:
        held = [job for job in self._alive() if job.lease and job.lease_ends > self.now]
        if held:
            self._outcome(held[which % len(held)], op)

    @rule(which=number, really=st.sampled_from([True, False, False]))
    def cancel(self, which: int, really: bool) -> None:
        alive = self._alive()
        if alive and really:
            self._outcome(alive[which % len(alive)], "cancel")

    @rule(really=st.sampled_from([True, False]))
    def replenish(self, really: bool) -> None:
        if really and self.budget.left == 0:
            self._call("scheduler", 0, "budget_reset", budget_id=self.budget_id)
            self.budget.left = 2

    @rule(
        minutes=st.sampled_from([1, 1, 2, 5]),
        loops=st.lists(
            st.tuples(st.sampled_from(["scheduler", "lease-keeper"]), st.sampled_from(PARTITIONS)), max_size=4
        ),
    )
    def time_passes(self, minutes: int, loops: list[tuple[str, int]]) -> None:
        """Move the clock and run some of the due loops."""
        self.machine.skew_ms += minutes * MINUTE
        for service, partition in loops:
            self._due(service, partition)

    @rule(really=st.sampled_from([True, False, False, False]))
    def deal(self, really: bool) -> None:
        if really:
            self.everything_runs_in_the_end()

    @invariant()
    def quick_mail_arrives(self) -> None:
        if hasattr(self, "tokens") and self.mail_is == "quick":
            self._read_mail()

    # -- a partition's schedulers -----------------------------------------------------------------

    def _alive(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.ended]

    def _schedule(self, commands: list[dict[str, Any]]) -> list[Any]:
        calls: list[Call] = []
        for command in commands:
            command = dict(command)
            partition = command.pop("partition")
            if "tokens" in command:
                chosen = {which % len(self.tokens) for which in command.pop("tokens")}
                tokens = [self.tokens[which] for which in sorted(chosen)]
                spec = {name: value for name, value in command.items() if value is not None}
                spec |= {"max_attempts": 3, "max_reclaims": 1000}
                spec["backoff"] = {"kind": "fixed", "delay_ms": HALF}
                limit = "&".join(sorted(token.name for token in tokens)) or None
                job = Job(new_id(partition), spec, tokens)
                self.jobs[job.execution_id] = job
                calls.append((partition, "create", {"id": job.execution_id, "spec": spec, "limit": limit}))
            else:
                op, ttl = command.pop("op"), command.pop("ttl")
                ask = {"worker_id": "w", "lease_ttl_ms": ttl, **command}
                calls.append((partition, op, {**ask, "takers": [ask]} if op == "hand_out" else ask))
        replies = self._calls("scheduler", calls)
        for (_, op, args), reply in zip(calls, replies, strict=True):
            assert not isinstance(reply, PenstockError), reply
            if op != "create":
                self._handed_out(op, args, reply)
        return replies

    def _handed_out(self, op: str, args: dict[str, Any], reply: dict[str, Any]) -> None:
        tasks: list[dict[str, Any]] = []
        grants: list[list[Any]] = reply["grants"]
        if op == "hand_out":
            [tasks], [grants] = reply["tasks"], reply["grants"]
        assert len(tasks) + len(grants) <= args["max"]
        for execution_id in [task["execution_id"] for task in tasks] + [grant[1] for grant in grants]:
            job = self.jobs[execution_id]
            assert not job.ended and job.spec["lane"] in args["lanes"]
            assert set(job.spec["capabilities"]) <= set(args["capabilities"])
            assert takes(args["kinds"], job.spec["kind"])
            for token in job.tokens:
                if _home(token.name) == partition_of(execution_id):
                    self._has_room(job, token)
        for task in tasks:
            self._leased(self.jobs[task["execution_id"]], task, args["start"])
        for grant_id, execution_id, _, _, _, *rest in grants:
            remote, slot = rest or ([], "")
            service = "scheduler" if op == "hand_out" else "lease-keeper"
            job = self.jobs[execution_id]
            self.grants.append(
                Grant(job, grant_id, slot, list(remote), service, args["start"], args["lease_ttl_ms"])
            )

    def _has_room(self, job: Job, token: Token) -> None:
        assert token.left is None or token.left > 0, "an exhausted budget lets nothing in"
        job.admitted[token.name] = self.now

    def _advance(self, grant: Grant) -> None:
        job, home = grant.job, partition_of(grant.job.execution_id)
        if grant.remote:
            name = grant.remote.pop(0)
            question = {"limit": name, "slot": grant.slot, "expires_at": self._clock() + HALF, "asker": home}
            reply = self._call("scheduler", _home(name), "admit", **question)
            if reply:
                self.grants.remove(grant)
                back = {"execution_id": job.execution_id, "grant_id": grant.grant_id, "full": reply}
                self._call("scheduler", home, "ungrant", **back)
            else:
                [token] = [token for token in job.tokens if token.name == name]
                self._has_room(job, token)
            return
        self.grants.remove(grant)
        claim = {
            "execution_id": job.execution_id,
            "grant_id": grant.grant_id,
            "worker_id": "w",
            "verb": "any",
        }
        claim |= {"lease_ttl_ms": grant.ttl, "start": grant.start}
        [task] = self._calls(grant.service, [(home, "claim", claim)])
        if isinstance(task, PenstockError):
            late = {"claim_grant_expired", "execution_not_leaseable", "invalid_claim_grant", "lease_conflict"}
            assert task.code in late, task
        else:
            self._leased(job, task, grant.start)

    def _clock(self) -> int:
        seconds, micros = self.redis.time()
        return seconds * 1000 + micros // 1000 + self.now

    def _leased(self, job: Job, task: dict[str, Any], started: bool) -> None:
        assert not job.ended
        job.lease, job.started = task, False
        job.lease_ends = self.now + task["lease_expires_at"] - self._clock() + HALF // 2
        for token in job.tokens:
            assert self._running(token) <= (token.concurrent or 99), f"too many at once: {token}"
        if started:
            self._started(job)

    def _started(self, job: Job) -> None:
        job.started = True
        for token in job.tokens:
            if token.per_window is not None:
                times = self.starts[token.name]
                times.append(job.admitted[token.name])
                times.sort()
                for first, next_one in zip(times, times[token.per_window :], strict=False):
                    assert next_one - first > WINDOW, f"too many in a window: {token}"

    def _never_started(self, job: Job) -> None:
        """A task that went back had reached nobody: it takes no place in a window."""
        for token in job.tokens:
            if token.per_window is not None:
                self.starts[token.name].remove(job.admitted[token.name])

    def _running(self, token: Token) -> int:
        return sum(job.lease_ends > self.now and token in job.tokens for job in self._alive() if job.lease)

    def _deliver(self, name: str, item: list[Any]) -> None:
        match name:
            case "slot":
                partition, token, slot, expires_at, *began = item
                args = {"token": token, "slot": slot, "expires_at": expires_at, "began": [*began, True][0]}
                self._call("scheduler", partition, "slot", **args)
            case "slot_check":
                partition, token, slot = item
                ends = self._call("scheduler", partition, "slot_ends", slot=slot)["expires_at"]
                self.mail.append(("slot", [_home(token), token, slot, ends]))
            case _:
                partition, token, room = item
                if self._call("scheduler", partition, "unblock", token=token, room=room)["left"]:
                    told = {"token": token, "waiter": partition}
                    self._call("scheduler", _home(token), "wait_room", **told)

    # -- outcomes ---------------------------------------------------------------------------------

    def _outcome(self, job: Job, op: str) -> None:
        home = partition_of(job.execution_id)
        if op == "cancel":
            args = {"execution_id": job.execution_id, "reason": "r", "grace_ms": 0}
            self._call("cancel-reconciler", home, "cancel", **args)
            reply = self._call("scheduler", home, "get", execution_id=job.execution_id)
            job.lease, job.ended = None, reply["state"] == "canceled"
            assert job.ended
            return
        assert job.lease is not None
        if op == "spend":
            self._spend(job)
            return
        if not job.started and op in ("complete", "fail"):
            self._outcome(job, "start")
        elif job.started and op in ("start", "release"):
            return
        fence = {name: job.lease[name] for name in FENCE}
        args = {"reason": "r", "lease_ttl_ms": 3 * HALF}
        service = "scheduler" if op == "give_back" else "lease-keeper"
        self._call(service, home, op, **fence, **args)
        match op:
            case "start":
                self._started(job)
            case "renew":
                job.lease_ends = self.now + 3 * HALF
            case _:
                attempts = job.lease["attempt_index"]
                if op == "give_back" and job.started:
                    self._never_started(job)
                job.lease = None
                job.ended = op == "complete" or (op == "fail" and attempts == 3)

    def _spend(self, job: Job) -> None:
        if self.budget in job.tokens and self.budget.left:
            assert job.lease is not None
            report = {
                "execution_id": job.execution_id,
                "lease_id": job.lease["lease_id"],
                "dimensions": {"n": 1},
            }
            self._call("lease-keeper", 0, "usage", budget_id=self.budget_id, **report)
            self.budget.left -= 1

    # -- in the end -------------------------------------------------------------------------------

    def everything_runs_in_the_end(self) -> None:
        """Lose all workers, schedulers and mail, and from then on nothing; then every job must run."""
        self.grants.clear()
        self.mail.clear()
        self.mail_is, usual = "quick", self.mail_is
        for _ in range(len(self._alive()) + 1):
            self._let_time_pass()
            before, self.calls = self.calls, 0
            self._hand_out_what_there_is()
            assert self.calls < 20 + 20 * len(self._alive()), "the partitions keep each other busy"
            self.calls += before
            waiting = [job for job in self._alive() if job.lease is None]
            for job in waiting:
                assert any(self._full(token) for token in job.tokens), f"forgotten: {job}"
            for job in self._alive():
                if job.lease is not None:
                    self._outcome(job, "complete")
            self._read_mail()
            if not waiting:
                self.mail_is = usual
                return
        raise AssertionError(f"some never run: {self._alive()}")

    def _let_time_pass(self) -> None:
        self.machine.skew_ms += LONG
        for job in self._alive():
            job.lease = None
        for partition in PARTITIONS:
            for service in ("lease-keeper", "scheduler"):
                self._due(service, partition)
        self._call("scheduler", 0, "budget_reset", budget_id=self.budget_id)
        self.budget.left = 2
        self._read_mail()

    def _hand_out_what_there_is(self) -> None:
        asked = 0
        while asked < len(PARTITIONS):
            for partition in PARTITIONS:
                ask = {"partition": partition, "op": "hand_out", "ttl": 3 * HALF, "start": True, **EVERYTHING}
                [reply] = self._schedule([ask])
                quiet = not (any(reply["tasks"]) or any(reply["grants"]) or "more" in reply or self.mail)
                asked = asked + 1 if quiet else 0
                while self.grants:
                    self._advance(self.grants[0])
                self._read_mail()
            assert self.calls < 1000, "the partitions keep each other busy"

    def _read_mail(self) -> None:
        while self.mail:
            self._deliver(*self.mail.pop(0))

    def _full(self, token: Token) -> bool:
        recent = [at for at in self.starts[token.name] if at >= self.now - WINDOW]
        return self._running(token) == token.concurrent or len(recent) == token.per_window or token.left == 0


def _home(token: str) -> int:
    """Return the partition that keeps a token's state."""
    return int(token.split("/")[1].split("-")[0])


def test_limits_against_the_model() -> None:
    run_state_machine_as_test(
        Limits,
        settings=settings(PROFILE, max_examples=3 * PROFILE.max_examples, stateful_step_count=30),
    )

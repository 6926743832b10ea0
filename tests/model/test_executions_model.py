"""Compare random ops of the Lua library on a real Valkey with the plain-Python model in reference.py.

Durations are odd multiples of 30 s and the clock moves in minutes, so the few milliseconds that the ops themselves
take never decide what is due. `PENSTOCK_MODEL_EXAMPLES` sets more examples than the quick run has.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from base_of_models import Model
from execution_agreement import Agreement
from execution_commands import (
    AWAIT_CHILDREN,
    CANCEL,
    CLAIM,
    CREATE,
    GRANT,
    HAND_OUT,
    KEEPER,
    LARGE,
    LIFE,
    LIMITS,
    LOOPS,
    MINUTE,
    ROUTER,
    Check,
    Command,
    command,
    fenced,
    service_of,
)
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test
from profile_of_models import PROFILE
from reference import RETENTION, Fence, Refused
from state_dump import StateDump
from waiting_commands import WaitingCommands
from waiting_reference import WaitingJob

from penstock.errors import PenstockError
from penstock.ids import new_id


class Executions(WaitingCommands, Agreement, Model):
    """`now` is the model's clock, `jobs` is the model, and `rooms` is a dump of Valkey's contents."""

    @initialize(commands=st.lists(CREATE, min_size=3, max_size=6))
    def open(self, commands: list[Command]) -> None:
        self.begin(LIMITS)
        self.rooms = StateDump(self.redis, self.machine.root, RETENTION)
        seconds, micros = self.redis.time()
        self.base = seconds * 1000 + micros // 1000
        self.jobs: list[WaitingJob] = []
        self.grants: list[tuple[str, WaitingJob, str]] = []
        self.fences: dict[str, list[Fence]] = {}
        self.ready_at: dict[str, float] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.epochs: dict[str, int] = {}
        self._run("scheduler", commands)

    # -- rules ------------------------------------------------------------------------------------

    @rule(commands=st.lists(CREATE, min_size=1, max_size=4))
    def submit(self, commands: list[Command]) -> None:
        self._run("scheduler", commands)

    @rule(
        grant=GRANT,
        claim=CLAIM,
        everything=st.sampled_from([True, True, False]),
        then=st.lists(LIFE, max_size=6),
    )
    def work(self, grant: Command, claim: Command, everything: bool, then: list[Command]) -> None:
        """Take the usual way: claim each execution that was granted; `then` some tasks end or are suspended."""
        before = len(self.grants)
        most = {"lanes": ["a", "b"], "caps": ["gpu", "ssd"], "max": 10} if everything else {}
        self._run("scheduler", [("grant", {**grant[1], **most})])
        fresh = len(self.grants) - before
        plain = {**claim[1], "worker": None, "job": None, "verb": "any"}
        self._run("lease-keeper", [("claim", {**plain, "grant": i}) for i in range(fresh)])
        for each in then:
            self._run(service_of(each[0]), [each])

    @rule(child=CREATE, wait=AWAIT_CHILDREN, then=st.lists(CANCEL, max_size=1))
    def have_a_child(self, child: Command, wait: Command, then: list[Command]) -> None:
        """Let a task make a child and wait for it; `then` the child may be canceled."""
        self._run("scheduler", [("create", {**child[1], "parent": 0})])
        self._run("lease-keeper", [wait])
        self._run("cancel-reconciler", then)

    @rule(commands=st.lists(command("give_back", **fenced), min_size=1, max_size=3))
    def return_tasks(self, commands: list[Command]) -> None:
        """Give tasks back, in a call of their own: only after it does the model know their new place in the queue."""
        self._run("scheduler", commands)

    @rule(commands=st.lists(st.one_of(CREATE, GRANT, HAND_OUT), min_size=1, max_size=5))
    def schedule(self, commands: list[Command]) -> None:
        self._run("scheduler", commands)

    @rule(commands=st.lists(KEEPER, min_size=1, max_size=5))
    def keep(self, commands: list[Command]) -> None:
        self._run("lease-keeper", commands)

    @rule(commands=st.lists(ROUTER, min_size=1, max_size=4))
    def signal(self, commands: list[Command]) -> None:
        self._run("signal-router", commands)

    @rule(command=CANCEL, really=st.sampled_from([False, False, True]))
    def cancel(self, command: Command, really: bool) -> None:
        if really:
            self._run("cancel-reconciler", [command])

    @rule(
        minutes=st.sampled_from([1, 1, 1, 2, 5, 12]), services=st.permutations(LOOPS), loops=st.integers(0, 4)
    )
    def time_passes(self, minutes: int, services: list[str], loops: int) -> None:
        """Move the clock and run some of the due loops."""
        self.machine.skew_ms += minutes * MINUTE
        for service in services[: 4 - loops]:
            self._due(service)

    def _due(self, service: str) -> None:
        self.runner.run(self.machine.due(service))
        for job in self.jobs:
            if not job.gone:
                match service:
                    case "scheduler":
                        job.scheduler_due(self.now)
                    case "lease-keeper":
                        job.keeper_due(self.now)
                    case "signal-router":
                        job.router_due(self.now)
                    case _:
                        pass
        if service == "cancel-reconciler":
            self._reconcile()

    def _reconcile(self) -> None:
        """Do the cancel-reconciler's due work in the order of time: a parent's end reaches its children."""
        while due := [job for job in self.jobs if not job.gone and job.reconciled_at() <= self.now]:
            for job in sorted(due, key=lambda job: (job.reconciled_at(), job.execution_id)):
                if job.closing_at is not None:
                    job.close_children(self.now)
                else:
                    job.reconciler_due(self.now)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "rooms"):
            return
        self.rooms.look()
        self.rooms.check()
        for job in self.jobs:
            self.agrees_on(job)

    # -- one batch --------------------------------------------------------------------------------

    def _run(self, service: str, commands: list[Command]) -> None:
        """Send all commands in one call; then apply them to the model one by one."""
        prepared = [
            each for name, fields in commands if (each := getattr(self, f"_{name}")(**fields)) is not None
        ]
        calls = [(0, op, args) for op, args, _ in prepared]
        replies = self.runner.run(self._call(service, calls))
        for (op, args, check), reply in zip(prepared, replies, strict=True):
            assert not isinstance(reply, PenstockError) or reply.code != "internal", (op, args)
            check(reply)

    async def _call(self, service: str, calls: list[Any]) -> list[Any]:
        return await self.machine.stores[service].call_many(calls)

    def _expect(self, does: Callable[[Any], Any]) -> Check:
        """Return a check that a reply equals the model's reply, or its refusal."""

        def check(reply: Any) -> None:
            try:
                expected = does(reply)
            except Refused as refused:
                assert isinstance(reply, PenstockError), f"{refused.code} expected, answered {reply}"
                assert reply.code == refused.code
            else:
                assert not isinstance(reply, PenstockError), f"{expected} expected, refused: {reply}"
                assert {name: reply.get(name) for name in expected} == expected

        return check

    def _job(self, number: int) -> WaitingJob | None:
        """Return a job; low numbers mean the newest jobs, which have more of their life ahead."""
        return self.jobs[-1 - number % len(self.jobs)] if self.jobs else None

    # -- the scheduler's ops ----------------------------------------------------------------------

    def _create(
        self,
        lane: str,
        priority: int,
        caps: list[str],
        fair: str | None,
        run_at: int | None,
        deadline: int | None,
        timeout: int | None,
        max_reclaims: int | None,
        categories: dict[str, list[str]],
        parent: int | None,
        parent_close: str | None,
        taker: tuple[str, bool, int] | None,
        **plain: Any,
    ) -> tuple[str, dict[str, Any], Check]:
        of = None
        if parent is not None:
            alive = [job for job in self.jobs if not job.gone]
            among = [job for job in alive if job.lease is not None] or alive
            of = among[-1 - parent % len(among)] if among else None
        if of is not None:
            deadline = None  # or else the order of two deadlines that pass at once would decide
        optional = {
            "parent_id": of and of.execution_id,
            "attempt_timeout_ms": timeout,
            "max_reclaims": max_reclaims,
            "fairness_key": fair,
            "run_at": None if run_at is None else self.now + run_at,
            "deadline_at": None if deadline is None else self.now + deadline,
        }
        kind = "t" if priority == 0 else "u"  # so that priority and age must hold over two kinds
        spec = {"kind": kind, "lane": lane, "priority": priority, "capabilities": caps, **plain, **categories}
        spec |= {name: value for name, value in optional.items() if value is not None}
        job = WaitingJob(new_id(0), spec, parent=of, let_run=parent_close == "let_run")
        if run_at is not None:
            job.state, job.reason, job.wake_at = "scheduled", "time", spec["run_at"]
        sent = dict(spec)
        for name in ("run_at", "deadline_at"):
            if name in spec:
                sent[name] = self.base + spec[name]

        def check(reply: Any) -> None:
            if of is not None and of.state in ("failed", "canceled") and not job.let_run:
                assert reply.code == "execution_not_eligible", "a parent that has ended so takes no children"
                return
            assert reply["state"] == job.state
            self.jobs.append(job)
            if of is not None:
                of.children.append(job)
                of.children_open += 1
            assert ("task" in reply) == (taker is not None and job.state == "ready")
            if taker is not None and job.state == "ready":
                worker, start, ttl = taker
                self._check_taken(job, worker, ttl, start, reply["task"])

        args = {"id": job.execution_id, "namespace": "default", "spec": sent, "parent_close": parent_close}
        if taker is not None:
            worker, start, ttl = taker
            args["taker"] = {"worker_id": worker, "max": 1, "lease_ttl_ms": ttl, "start": start}
        return "create", args, check

    def _check_taken(self, job: WaitingJob, worker: str, ttl: int, start: bool, task: dict[str, Any]) -> None:
        """Check the task of a job that a worker has just got."""
        expected = job.take(self.now, None, worker, ttl, start, task)
        assert {name: task[name] for name in expected} == expected
        assert job.lease is not None
        self.fences.setdefault(job.execution_id, []).append(job.lease.fence)

    def _grant(
        self, worker: str, lanes: list[str], caps: list[str], max: int
    ) -> tuple[str, dict[str, Any], Check]:
        def check(reply: Any) -> None:
            self._check_offer(lanes, caps, max, [grant[1] for grant in reply["grants"]])
            for grant_id, execution_id, resumed, reclaim, _ in reply["grants"]:
                [job] = [job for job in self.jobs if job.execution_id == execution_id]
                assert (resumed, reclaim) == (job.via == "resumed", job.via == "reclaim")
                job.granted(self.now, grant_id, worker)
                self.grants.append((grant_id, job, worker))

        return "grant", {"worker_id": worker, "lanes": lanes, "capabilities": caps, "max": max}, check

    def _hand_out(
        self,
        workers: list[tuple[str, int]],
        lanes: list[str],
        caps: list[str],
        max: int,
        start: bool,
        ttl: int,
    ) -> tuple[str, dict[str, Any], Check]:
        def check(reply: Any) -> None:
            assert reply["grants"] == [[] for _ in workers]
            taken: list[list[Any]] = reply["tasks"]
            assert all(len(tasks) <= most for tasks, (_, most) in zip(taken, workers, strict=True))
            # The takers are served in turn.
            order = [task for turn in zip_longest(*taken) for task in turn if task is not None]
            room = min(max, sum(most for _, most in workers))
            self._check_offer(lanes, caps, room, [task["execution_id"] for task in order])
            for tasks, (worker, _) in zip(taken, workers, strict=True):
                for task in tasks:
                    [job] = [job for job in self.jobs if job.execution_id == task["execution_id"]]
                    self._check_taken(job, worker, ttl, start, task)

        takers = [
            {"worker_id": worker, "max": most, "lease_ttl_ms": ttl, "start": start}
            for worker, most in workers
        ]
        return "hand_out", {"takers": takers, "lanes": lanes, "capabilities": caps, "max": max}, check

    def _check_offer(self, lanes: list[str], caps: list[str], max: int, offered: list[str]) -> None:
        """Check that a worker is offered the ready jobs for its capabilities, lane by lane, up to `max`."""
        room = max
        for lane in lanes:
            eligible = [
                job
                for job in self.jobs
                if job.state == "ready"
                and job.grant is None
                and job.spec["lane"] == lane
                and set(job.spec["capabilities"]) <= set(caps)
            ]
            most = min(room, len(eligible))
            mine, offered = offered[:most], offered[most:]
            self._check_order(mine, eligible, most)
            room -= most
        assert offered == [], "more was offered than there is"

    def _check_order(self, mine: list[str], eligible: list[WaitingJob], most: int) -> None:
        """Check that each tenant's jobs come by priority, then by the time they became ready."""
        assert len(mine) == most, f"{most} of {len(eligible)} should be offered, {len(mine)} were"
        tenants = {job.spec.get("fairness_key") for job in eligible}
        for tenant in tenants:
            line = sorted(
                (job for job in eligible if job.spec.get("fairness_key") == tenant), key=self._place
            )
            ids = [job.execution_id for job in line]
            got = [each for each in mine if each in ids]
            assert got == ids[: len(got)]

    def _place(self, job: WaitingJob) -> tuple[float, float, str]:
        return -job.spec["priority"], self.ready_at.get(job.execution_id, math.inf), job.execution_id

    def _give_back(self, **fenced: Any) -> Any:
        return self._fenced(
            "give_back", **fenced, does=lambda job, fence: job.release(self.now, fence, "give_back")
        )

    # -- the lease-keeper's ops -------------------------------------------------------------------

    def _claim(
        self, grant: int, worker: str | None, job: int | None, verb: str, start: bool, ttl: int
    ) -> tuple[str, dict[str, Any], Check] | None:
        if not self.grants:
            return None
        grant_id, owner, granted_to = self.grants[-1 - grant % len(self.grants)]
        target = owner if job is None else self._job(job)
        assert target is not None
        who = worker or granted_to
        args = {
            "execution_id": target.execution_id,
            "grant_id": grant_id,
            "worker_id": who,
            "lease_ttl_ms": ttl,
            "start": start,
            "verb": verb,
        }

        def does(reply: Any) -> Any:
            answered = {} if isinstance(reply, PenstockError) else reply
            task = target.claim(self.now, grant_id, who, ttl, start, verb, answered)
            known = self.fences.setdefault(target.execution_id, [])
            assert target.lease is not None
            if target.lease.fence not in known:
                assert target.lease.fence.lease_id not in {each.lease_id for each in known}
                known.append(target.lease.fence)
            return task

        return "claim", args, self._expect(does)

    def _fenced(
        self,
        op: str,
        job: int,
        lease: int,
        forge: str,
        does: Callable[[WaitingJob, Fence], Any],
        prefer: Callable[[WaitingJob], Any] = lambda job: True,
        **args: Any,
    ) -> tuple[str, dict[str, Any], Check] | None:
        """Build an op with the newest fence of a job, an older one or a forged one.

        Most often the job is held, and one that the op would rather have (`prefer`), if there is any.
        """
        leased = [each for each in self.jobs if each.execution_id in self.fences]
        if not leased:
            return None
        held = [each for each in leased if each.lease is not None]
        preferred = [each for each in held if prefer(each)]
        among = leased if job % 4 == 3 else preferred or held or leased
        target = among[-1 - job % len(among)]
        known = self.fences[target.execution_id]
        fence = known[-1 - lease % len(known)]
        match forge:
            case "lease":
                fence = replace(fence, lease_id=f"{fence.lease_id}0")
            case "epoch":
                fence = replace(fence, epoch=fence.epoch + 1)
            case "attempt":
                fence = replace(fence, attempt=fence.attempt + 1)
            case _:
                pass
        sent = {
            "execution_id": target.execution_id,
            "lease_id": fence.lease_id,
            "lease_epoch": fence.epoch,
            "attempt_index": fence.attempt,
            **{name: value for name, value in args.items() if value is not None},
        }
        return op, sent, self._expect(lambda reply: does(target, fence))

    def _start(self, **fenced: Any) -> Any:
        return self._fenced("start", **fenced, does=lambda job, fence: job.start(self.now, fence))

    def _renew(self, ttl: int | None, **fenced: Any) -> Any:
        return self._fenced(
            "renew", **fenced, does=lambda job, fence: job.renew(self.now, fence, ttl), lease_ttl_ms=ttl
        )

    def _progress(self, **fenced: Any) -> Any:
        return self._fenced(
            "progress",
            **fenced,
            does=lambda job, fence: job.progress(self.now, fence),
            pct=50,
            message="half",
        )

    def _complete(self, **fenced: Any) -> Any:
        return self._fenced(
            "complete",
            **fenced,
            does=lambda job, fence: job.complete(self.now, fence),
            prefer=lambda job: job.parent is not None and job.parent.reason == "children",
            result=LARGE,
        )

    def _fail(self, category: str, retryable: bool, delay: int | None, **fenced: Any) -> Any:
        return self._fenced(
            "fail",
            **fenced,
            does=lambda job, fence: job.fail(self.now, fence, category, retryable, delay),
            reason="why not",
            category=category,
            retryable=retryable,
            retry_after_ms=delay,
        )

    def _release(self, unbegun: bool, **fenced: Any) -> Any:
        return self._fenced(
            "release",
            **fenced,
            does=lambda job, fence: job.release(self.now, fence, "release", unbegun),
            unbegun=unbegun or None,
        )

    # -- the cancel-reconciler's ops --------------------------------------------------------------

    def _cancel(self, job: int, grace: int) -> Any:
        awaited = [each for each in self.jobs if each.parent is not None and each.parent.reason == "children"]
        target = awaited[-1 - job % len(awaited)] if awaited and job % 2 else self._job(job)
        if target is None:
            return None
        args = {"execution_id": target.execution_id, "reason": "enough", "grace_ms": grace}
        return "cancel", args, self._expect(lambda reply: target.cancel(self.now, grace))


def test_executions_against_the_model() -> None:
    run_state_machine_as_test(Executions, settings=PROFILE)

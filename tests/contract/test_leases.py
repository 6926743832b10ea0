"""Grants become leases, and workers end their leases with an outcome."""

import json
from typing import Any

import pytest

from penstock import errors
from running_penstock import NOWHERE, RunningPenstock, fence

MINUTE = 60_000


async def granted(house: RunningPenstock, **options: Any) -> dict[str, Any]:
    """Wait until there is work; return one grant for worker w1."""

    async def ask() -> list[dict[str, Any]]:
        try:
            return (await house.request("work.grant", {"worker_id": "w1", **options}))["items"]
        except errors.NoEligibleExecution:
            return []

    [grant] = await house.until(ask, bool, "a grant for w1")
    return grant


def claim_of(grant: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"grant_id": grant["grant_id"], "execution_id": grant["execution_id"], "worker_id": "w1", **more}


class TestClaim:
    async def test_a_grant_becomes_a_lease(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(input={"n": 1}, tags={"a": "b"})
        grant = await granted(penstock)
        assert grant["execution_id"] == execution_id
        assert (grant["resumed"], grant["reclaim"]) == (False, False)
        assert (await penstock.get(execution_id))["state"] == "ready"
        task = await penstock.request("lease.claim", claim_of(grant))
        assert task["input"] == {"n": 1} and task["tags"] == {"a": "b"} and task["resumed"] is False
        assert (task["attempt_index"], task["lease_epoch"], task["kind"], task["lane"]) == (
            1,
            1,
            "test.job",
            "default",
        )
        record = await penstock.get(execution_id)
        assert record["state"] == "leased"
        assert record["lease"] == {
            "lease_epoch": 1,
            "worker_id": "w1",
            "expires_at": task["lease_expires_at"],
        }

    async def test_the_fence_is_a_secret_of_its_holder(self, penstock: RunningPenstock) -> None:
        """Ids of leases and grants have nothing in common with one another, and nobody else is shown them."""
        ids = [await penstock.create() for _ in range(2)]
        grants = [await granted(penstock) for _ in ids]
        tasks = [await penstock.request("lease.claim", claim_of(grant, start=True)) for grant in grants]
        secrets = [grant["grant_id"] for grant in grants] + [task["lease_id"] for task in tasks]
        assert all(len(secret) >= 24 for secret in secrets)
        assert len({secret[:6] for secret in secrets}) == len({secret[-6:] for secret in secrets}) == 4
        await penstock.request("lease.progress", {**fence(tasks[0]), "pct": 5})
        shown = [
            *[await penstock.request("execution.get", {"execution_id": each}) for each in ids],
            *[await penstock.request("execution.history", {"execution_id": each}) for each in ids],
            *[await penstock.request("execution.explain", {"execution_id": each}) for each in ids],
            await penstock.request("execution.list"),
            await penstock.request("execution.search", {"filter": {"worker_id": "w1"}}),
            await penstock.request("worker.list"),
            (await penstock.refused("lease.claim", claim_of(grants[0], worker_id="w2"))).detail,
        ]
        assert not [secret for secret in secrets if secret in json.dumps(shown)]

    async def test_start_in_the_same_step(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        await penstock.request("lease.claim", claim_of(await granted(penstock), start=True))
        record = await penstock.get(execution_id)
        assert record["state"] == "running" and record["started_at"] is not None

    async def test_the_same_claim_again_answers_the_same(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        body = claim_of(await granted(penstock))
        task = await penstock.request("lease.claim", body)
        assert await penstock.request("lease.claim", body) == task

    async def test_somebody_elses_grant(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        await penstock.create()
        grant, other = await granted(penstock), await granted(penstock)
        for wrong in (
            {**claim_of(grant), "worker_id": "w2"},
            {**claim_of(grant), "grant_id": other["grant_id"]},
            {**claim_of(grant), "grant_id": "forged"},
        ):
            error = await penstock.refused("lease.claim", wrong)
            assert (error.code, error.error_class, error.retryable) == (
                "invalid_claim_grant",
                "contention",
                True,
            )
        await penstock.request("lease.claim", claim_of(grant))

    async def test_a_lease_that_another_holds(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        grant = await granted(penstock)
        task = await penstock.request("lease.claim", claim_of(grant))
        error = await penstock.refused("lease.claim", {**claim_of(grant), "worker_id": "w2"})
        assert error.code == "lease_conflict"
        assert error.detail == {"worker_id": "w1", "expires_at": task["lease_expires_at"]}

    async def test_a_grant_that_was_not_claimed_in_time(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        grant = await granted(penstock)
        assert (await penstock.refused("work.grant", {"worker_id": "w2"})).code == "no_eligible_execution"
        penstock.move_clock(MINUTE)
        error = await penstock.refused("lease.claim", claim_of(grant))
        assert error.code == "claim_grant_expired"
        again = await granted(penstock)
        assert again["execution_id"] == execution_id and again["grant_id"] != grant["grant_id"]
        assert (await penstock.request("lease.claim", claim_of(again)))["attempt_index"] == 1

    async def test_what_cannot_be_leased(self, penstock: RunningPenstock) -> None:
        waiting = await penstock.create(run_at=4 * 10**12)
        body = {"grant_id": "g", "execution_id": waiting, "worker_id": "w1"}
        error = await penstock.refused("lease.claim", body)
        assert (error.code, error.detail) == ("execution_not_leaseable", {"state": "scheduled"})
        error = await penstock.refused("lease.reclaim", body)
        assert (error.code, error.detail) == ("execution_not_reclaimable", {"state": "scheduled"})
        await penstock.create(lane="done")
        task = await penstock.begin(lanes=["done"])
        await penstock.request("lease.complete", fence(task))
        error = await penstock.refused("lease.claim", {**body, "execution_id": task["execution_id"]})
        assert (error.code, error.detail) == ("execution_not_leaseable", {"state": "completed"})
        error = await penstock.refused("lease.claim", {**body, "execution_id": NOWHERE})
        assert error.code == "execution_not_found"

    async def test_each_grant_has_its_verb(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        plain = await granted(penstock)
        error = await penstock.refused("lease.claim_resumed", claim_of(plain))
        assert error.code == "not_a_resumed_execution"
        error = await penstock.refused("lease.reclaim", claim_of(plain))
        assert error.code == "execution_not_reclaimable"
        await penstock.request("lease.claim", claim_of(plain, lease_ttl_ms=MINUTE // 2))
        await penstock.loses_its_lease(execution_id)
        lost = await granted(penstock)
        assert (lost["resumed"], lost["reclaim"]) == (False, True)
        error = await penstock.refused("lease.claim_resumed", claim_of(lost))
        assert error.code == "not_a_resumed_execution"
        task = await penstock.request("lease.reclaim", claim_of(lost, start=True))
        assert (task["attempt_index"], task["lease_epoch"], task["resumed"]) == (1, 2, False)
        suspended = await penstock.request("lease.suspend", fence(task))
        await penstock.request("signal.deliver", {"token": suspended["token"], "name": "go"})
        resumed = await granted(penstock)
        assert (resumed["resumed"], resumed["reclaim"]) == (True, False)
        error = await penstock.refused("lease.claim", claim_of(resumed))
        assert error.code == "use_claim_resumed_execution"
        task = await penstock.request("lease.claim_resumed", claim_of(resumed))
        assert (task["attempt_index"], task["lease_epoch"], task["resumed"]) == (1, 3, True)

    async def test_a_batch(self, penstock: RunningPenstock) -> None:
        for _ in range(3):
            await penstock.create()
        grants: list[Any] = []
        while len(grants) < 3:
            grants += (await penstock.request("work.grant", {"worker_id": "w1", "max": 3}))["items"]
        asked = [claim_of(grant) for grant in grants]
        asked.insert(1, {**asked[0], "worker_id": "w2"})
        asked.append({**asked[0], "lease_ttl_ms": 1})
        answers = await penstock.request("lease.claim", asked)
        assert [set(answer) for answer in answers] == [{"ok"}, {"error"}, {"ok"}, {"ok"}, {"error"}]
        assert answers[1]["error"]["code"] == "lease_conflict"
        assert answers[4]["error"]["detail"] == {"field": "lease_ttl_ms"}


class TestFence:
    VERBS = ("lease.start", "lease.renew", "lease.complete", "lease.release")

    async def test_only_the_current_fence_changes_anything(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        [task] = await penstock.take()
        right = fence(task)
        before = await penstock.get(execution_id)
        wrong = [
            {**right, "lease_id": "forged"},
            {**right, "lease_epoch": 2},
            {**right, "lease_epoch": 0},
            {**right, "attempt_index": 2},
        ]
        for body in wrong:
            for verb in self.VERBS:
                assert (await penstock.refused(verb, body)).code == "stale_lease"
            assert (await penstock.refused("lease.fail", {**body, "reason": "r"})).code == "stale_lease"
            assert (await penstock.refused("lease.progress", {**body, "pct": 1})).code == "stale_lease"
        assert await penstock.get(execution_id) == before

    async def test_a_fence_where_nobody_holds_a_lease(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        body = {"execution_id": execution_id, "attempt_index": 1, "lease_id": "l", "lease_epoch": 1}
        for verb in self.VERBS:
            error = await penstock.refused(verb, body)
            assert (error.code, error.detail) == ("no_active_lease", {"state": "ready"})
            error = await penstock.refused(verb, {**body, "execution_id": NOWHERE})
            assert error.code == "execution_not_found"

    async def test_a_malformed_fence(self, penstock: RunningPenstock) -> None:
        body = {"execution_id": NOWHERE, "attempt_index": 1, "lease_id": "l", "lease_epoch": 1}
        for verb in self.VERBS:
            for name, value in (
                ("execution_id", "x"),
                ("attempt_index", -1),
                ("lease_id", "a b"),
                ("lease_epoch", "1"),
            ):
                error = await penstock.refused(verb, {**body, name: value})
                assert (error.code, error.detail) == ("invalid_request", {"field": name})
            less = {name: value for name, value in body.items() if name != "lease_epoch"}
            assert (await penstock.refused(verb, less)).detail == {"field": "lease_epoch"}
            assert (await penstock.refused(verb, {**body, "worker": "w"})).detail == {"field": "worker"}

    async def test_a_lease_that_ran_out(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin(lease_ttl_ms=MINUTE // 2)
        await penstock.loses_its_lease(execution_id)
        for verb in ("lease.renew", "lease.complete"):
            assert (await penstock.refused(verb, fence(task))).code == "lease_expired"
        second = await penstock.begin()
        assert (await penstock.refused("lease.complete", fence(task))).code == "stale_lease"
        await penstock.request("lease.complete", fence(second))
        error = await penstock.refused("lease.complete", fence(task))
        assert (error.code, error.detail["lifecycle_phase"]) == ("execution_not_active", "completed")


class TestStartAndRenew:
    async def test_start(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        [task] = await penstock.take()
        for _ in range(2):
            assert await penstock.request("lease.start", fence(task)) == {"state": "running"}
        events = (await penstock.request("execution.history", {"execution_id": execution_id}))["items"]
        assert [event["event"] for event in events] == ["created", "leased", "started"]
        leased = {key: task[key] for key in ("lease_epoch", "lease_expires_at")} | {"worker_id": "w1"}
        assert [event["data"] for event in events[1:]] == [leased, {"attempt_index": 1}]

    @pytest.mark.parametrize("claimed", [False, True])
    async def test_leased_and_begun_in_one_step_is_one_event(
        self, penstock: RunningPenstock, claimed: bool
    ) -> None:
        execution_id = await penstock.create()
        if claimed:
            task = await penstock.request("lease.claim", claim_of(await granted(penstock), start=True))
        else:
            task = await penstock.begin()
        events = (await penstock.request("execution.history", {"execution_id": execution_id}))["items"]
        assert [event["event"] for event in events] == ["created", "started"]
        started = events[1]
        assert (started["seq"], started["from"], started["to"]) == (2, "ready", "running")
        assert (started["actor"], started["data"]) == (
            "worker:w1",
            {
                "via": "leased",
                "worker_id": "w1",
                "lease_epoch": task["lease_epoch"],
                "lease_expires_at": task["lease_expires_at"],
                "attempt_index": 1,
            },
        )
        # It has begun: a repeat of the beginning says nothing, and it can end.
        assert await penstock.request("lease.start", fence(task)) == {"state": "running"}
        await penstock.request("lease.complete", fence(task))
        assert (await penstock.get(execution_id))["seq"] == 3

    async def test_renewals_keep_a_lease(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin(lease_ttl_ms=MINUTE)
        for _ in range(4):
            penstock.move_clock(MINUTE * 3 // 4)
            renewed = await penstock.request("lease.renew", fence(task))
            assert renewed["cancel_requested"] is False
        record = await penstock.get(execution_id)
        assert record["state"] == "running" and record["reclaims"] == 0
        assert record["lease"]["expires_at"] == renewed["expires_at"]
        longer = await penstock.request("lease.renew", {**fence(task), "lease_ttl_ms": 10 * MINUTE})
        assert longer["expires_at"] - renewed["expires_at"] >= 9 * MINUTE

    async def test_a_batch_of_renewals(self, penstock: RunningPenstock) -> None:
        for _ in range(3):
            await penstock.create()
        tasks = [await penstock.begin() for _ in range(3)]
        asked = [fence(task) for task in tasks]
        asked.insert(1, {**asked[0], "lease_epoch": 9})
        answers = await penstock.request("lease.renew", asked)
        assert [set(answer) for answer in answers] == [{"ok"}, {"error"}, {"ok"}, {"ok"}]


class TestOutcomes:
    async def test_complete_and_its_repeats(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        body = {**fence(task), "result": {"n": 1}}
        for _ in range(3):
            assert await penstock.request("lease.complete", body) == {"state": "completed"}
        record = await penstock.get(execution_id)
        assert (record["state"], record["outcome"], record["result"]) == ("completed", "completed", {"n": 1})
        assert record["lease"] is None and record["finished_at"] is not None and record["seq"] == 3
        # A different outcome with the same fence comes too late.
        error = await penstock.refused("lease.fail", {**fence(task), "reason": "r"})
        assert error.code == "execution_not_active"
        assert await penstock.get(execution_id) == record

    async def test_what_has_not_begun_cannot_end(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        [task] = await penstock.take()
        error = await penstock.refused("lease.complete", fence(task))
        assert (error.code, error.detail) == ("illegal_transition", {"from": "leased", "to": "completed"})
        error = await penstock.refused("lease.fail", {**fence(task), "reason": "r"})
        assert (error.code, error.detail) == ("illegal_transition", {"from": "leased", "to": "failed"})

    async def test_a_failure_without_attempts_left(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        body = {**fence(task), "reason": "boom", "category": "bug"}
        for _ in range(2):
            answer = await penstock.request("lease.fail", body)
            assert answer["outcome"] == "terminal_failed"
        record = await penstock.get(execution_id)
        assert (record["state"], record["outcome"]) == ("failed", "failed")
        assert record["failure"] == {"reason": "boom", "category": "bug", "attempt": 1}

    async def test_retries_with_exponential_backoff(self, penstock: RunningPenstock) -> None:
        backoff = {"kind": "exponential", "delay_ms": 10_000, "factor": 3, "max_ms": 60_000}
        execution_id = await penstock.create(max_attempts=4, backoff=backoff)
        attempts: set[str] = set()
        for attempt, delay in ((1, 10_000), (2, 30_000), (3, 60_000)):
            task = await penstock.begin()
            assert task["attempt_index"] == attempt
            attempts.add(task["attempt_id"])
            answer = await penstock.request("lease.fail", {**fence(task), "reason": "r"})
            assert (answer["outcome"], answer["next_attempt"]) == ("retry_scheduled", attempt + 1)
            record = await penstock.get(execution_id)
            assert record["state"] == "retry_wait"
            assert answer["ready_at"] - record["updated_at"] == delay
            # A repeat, as after a lost reply, gets the same answer.
            assert await penstock.request("lease.fail", {**fence(task), "reason": "r"}) == answer
            assert await penstock.take(wait_ms=0) == []
            penstock.move_clock(delay)
            await penstock.reaches(execution_id, "ready")
        task = await penstock.begin()
        assert len({*attempts, task["attempt_id"]}) == 4
        assert (await penstock.request("lease.fail", {**fence(task), "reason": "r"}))[
            "outcome"
        ] == "terminal_failed"
        assert (await penstock.get(execution_id))["failure"]["attempt"] == 4

    async def test_fixed_backoff_its_default_and_retry_after(self, penstock: RunningPenstock) -> None:
        cases: list[tuple[Any, dict[str, Any], int]] = [
            ({"kind": "fixed", "delay_ms": 7000, "factor": 9}, {}, 7000),
            (None, {}, 1000),
            ({"kind": "fixed", "delay_ms": 7000}, {"retry_after_ms": 0}, 0),
            ({"kind": "fixed", "delay_ms": 7000}, {"retry_after_ms": 90_000}, 90_000),
            ({"kind": "exponential", "delay_ms": 7000, "max_ms": 500}, {}, 500),
        ]
        for backoff, more, delay in cases:
            execution_id = await penstock.create(
                max_attempts=2, lane="l", **({"backoff": backoff} if backoff else {})
            )
            task = await penstock.begin(lanes=["l"])
            answer = await penstock.request("lease.fail", {**fence(task), "reason": "r", **more})
            events = (await penstock.request("execution.history", {"execution_id": execution_id}))["items"]
            assert answer["ready_at"] - events[2]["at"] == delay
            await penstock.request("execution.cancel", {"execution_id": execution_id})

    async def test_jitter_takes_off_a_share_at_random(self, penstock: RunningPenstock) -> None:
        delays: set[int] = set()
        for _ in range(8):
            backoff = {"kind": "fixed", "delay_ms": 100_000, "jitter": 0.5}
            execution_id = await penstock.create(max_attempts=2, backoff=backoff)
            task = await penstock.begin()
            answer = await penstock.request("lease.fail", {**fence(task), "reason": "r"})
            delays.add(answer["ready_at"] - (await penstock.get(execution_id))["updated_at"])
        assert all(50_000 <= delay <= 100_000 for delay in delays)
        assert len(delays) > 1

    async def test_categories_say_what_is_tried_again(self, penstock: RunningPenstock) -> None:
        cases = [
            ({"retry_on": ["net"]}, {"category": "net"}, "retry_scheduled"),
            ({"retry_on": ["net"]}, {"category": "bug"}, "terminal_failed"),
            ({"fail_on": ["bug"]}, {"category": "bug"}, "terminal_failed"),
            ({"fail_on": ["bug"]}, {"category": "net"}, "retry_scheduled"),
            ({"fail_on": ["net"], "retry_on": ["net"]}, {"category": "net"}, "terminal_failed"),
            ({}, {"retryable": False}, "terminal_failed"),
            ({}, {}, "retry_scheduled"),
            ({"retry_on": []}, {}, "terminal_failed"),
        ]
        for spec, failure, outcome in cases:
            await penstock.create(max_attempts=2, **spec)
            task = await penstock.begin()
            answer = await penstock.request("lease.fail", {**fence(task), "reason": "r", **failure})
            assert answer["outcome"] == outcome, (spec, failure)

    async def test_release_uses_nothing(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        [task] = await penstock.take()
        for _ in range(2):
            assert await penstock.request("lease.release", fence(task)) == {"state": "ready"}
        record = await penstock.get(execution_id)
        assert (record["lease"], record["reclaims"]) == (None, 0)
        again = await penstock.begin()
        assert (again["attempt_index"], again["attempt_id"]) == (1, task["attempt_id"])
        assert again["lease_epoch"] == 2
        error = await penstock.refused("lease.release", fence(again))
        assert (error.code, error.detail) == ("illegal_transition", {"from": "running", "to": "ready"})
        # A repeat of the first release still gets the first answer.
        assert await penstock.request("lease.release", fence(task)) == {"state": "ready"}

    async def test_what_was_begun_when_it_was_leased_goes_back_too(self, penstock: RunningPenstock) -> None:
        """A worker that asks ahead gives back what it cannot begin soon: no attempt and no place in a quota is used."""
        quota = await penstock.request("quota.create", {"max_per_window": 1, "window_ms": 3_600_000})
        execution_id = await penstock.create(quota_id=quota["quota_id"])
        task = await penstock.begin()
        assert (await penstock.refused("lease.release", fence(task))).code == "illegal_transition"
        for _ in range(2):
            released = await penstock.request("lease.release", {**fence(task), "unbegun": True})
            assert released == {"state": "ready"}
        again = await penstock.begin()
        assert (again["attempt_id"], again["lease_epoch"]) == (task["attempt_id"], 2)
        assert (await penstock.get(execution_id))["reclaims"] == 0
        events = await penstock.request("execution.history", {"execution_id": execution_id})
        assert [each["event"] for each in events["items"]] == ["created", "started", "released", "started"]

    async def test_a_released_reclaim_is_still_a_reclaim(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        await penstock.take(lease_ttl_ms=MINUTE // 2)
        await penstock.loses_its_lease(execution_id)
        task = await penstock.request("lease.reclaim", claim_of(await granted(penstock)))
        await penstock.request("lease.release", fence(task))
        assert (await granted(penstock))["reclaim"] is True

    async def test_a_batch_of_outcomes(self, penstock: RunningPenstock) -> None:
        for _ in range(3):
            await penstock.create()
        tasks = [await penstock.begin() for _ in range(3)]
        asked = [{**fence(task), "result": n} for n, task in enumerate(tasks)]
        answers = await penstock.request("lease.complete", [asked[0], {}, asked[1], asked[1], asked[2]])
        assert [set(answer) for answer in answers] == [{"ok"}, {"error"}, {"ok"}, {"ok"}, {"ok"}]
        for n, task in enumerate(tasks):
            assert (await penstock.get(task["execution_id"]))["result"] == n

    async def test_bad_outcomes(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        task = await penstock.begin()
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("lease.fail", {}, "reason"),
            ("lease.fail", {"reason": 1}, "reason"),
            ("lease.fail", {"reason": "r", "category": "a b"}, "category"),
            ("lease.fail", {"reason": "r", "retry_after_ms": -1}, "retry_after_ms"),
            ("lease.fail", {"reason": "r" * 4097}, "reason"),
            ("lease.progress", {"pct": 101}, "pct"),
            ("lease.progress", {"pct": -1}, "pct"),
            ("lease.progress", {}, "pct"),
            ("lease.renew", {"lease_ttl_ms": 99}, "lease_ttl_ms"),
            ("lease.complete", {"outcome": 1}, "outcome"),
        ]
        for verb, more, field in cases:
            error = await penstock.refused(verb, {**fence(task), **more})
            assert (error.code, error.detail) == ("invalid_request", {"field": field})
        await penstock.request("lease.complete", fence(task))

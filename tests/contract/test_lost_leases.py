"""Progress reports, lost leases, and attempts that take too long."""

import msgspec

from running_penstock import WAIT_S, RunningPenstock, fence

MINUTE = 60_000


class TestProgress:
    async def test_progress_makes_few_events_and_the_last_is_never_lost(
        self, penstock: RunningPenstock
    ) -> None:
        """At most one event a second: the first report at once, the latest after the second or with the ending."""
        execution_id = await penstock.create()
        task = await penstock.begin()

        async def told() -> list[float]:
            page = await penstock.request("execution.history", {"execution_id": execution_id})
            return [event["data"]["pct"] for event in page["items"] if event["event"] == "progress"]

        for pct in (1, 2, 3):
            await penstock.request("lease.progress", {**fence(task), "pct": pct})
        assert (await penstock.get(execution_id))["progress"]["pct"] == 3
        assert await told() == [1]
        penstock.move_clock(1000)
        await penstock.until(told, lambda found: found == [1, 3], "the progress that waited")
        for pct in (4, 5):
            await penstock.request("lease.progress", {**fence(task), "pct": pct})
        await penstock.request("lease.complete", {**fence(task), "result": None})
        page = await penstock.request("execution.history", {"execution_id": execution_id})
        assert [event["event"] for event in page["items"]][-2:] == ["progress", "completed"]
        assert await told() == [1, 3, 5]

    async def test_progress(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        answer = await penstock.request("lease.progress", {**fence(task), "pct": 12.5, "message": "½"})
        record = await penstock.get(execution_id)
        assert answer["progress"] == record["progress"]
        assert (record["progress"]["pct"], record["progress"]["message"]) == (12.5, "½")
        assert record["progress"]["at"] == record["updated_at"]


class TestLostLeases:
    async def test_the_work_of_a_dead_worker_goes_back_by_itself(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(max_attempts=1)
        first = await penstock.begin(lease_ttl_ms=MINUTE // 2)
        await penstock.loses_its_lease(execution_id)
        record = await penstock.get(execution_id)
        assert (record["reclaims"], record["attempt_index"], record["lease"]) == (1, 1, None)
        second = await penstock.begin()
        assert (second["attempt_index"], second["attempt_id"]) == (1, first["attempt_id"])
        assert second["lease_epoch"] == first["lease_epoch"] + 1
        await penstock.request("lease.complete", fence(second))
        events = (await penstock.request("execution.history", {"execution_id": execution_id}))["items"]
        assert [event["event"] for event in events] == [
            "created", "started", "reclaimed", "started", "completed",
        ]  # fmt: skip
        assert events[2]["reason"] == "lease_expired" and events[2]["data"]["worker_id"] == "w1"

    async def test_a_job_that_kills_its_workers_ends(self, penstock: RunningPenstock) -> None:
        for begun in (True, False):
            execution_id = await penstock.create(max_reclaims=2)
            for reclaims in (1, 2):
                await penstock.take(start=begun, lease_ttl_ms=MINUTE // 2)
                await penstock.loses_its_lease(execution_id)
                assert (await penstock.get(execution_id))["reclaims"] == reclaims
            await penstock.take(start=begun, lease_ttl_ms=MINUTE // 2)
            penstock.move_clock(MINUTE)
            record = await penstock.reaches(execution_id, "failed")
            assert record["failure"]["category"] == "lease_expired"
            assert (record["attempt_index"], record["reclaims"]) == (1, 2)

    async def test_a_lost_lease_burns_no_retry(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(max_attempts=2, backoff={"kind": "fixed", "delay_ms": 0})
        for _ in range(3):
            await penstock.begin(lease_ttl_ms=MINUTE // 2)
            await penstock.loses_its_lease(execution_id)
        task = await penstock.begin()
        assert task["attempt_index"] == 1
        await penstock.request("lease.fail", {**fence(task), "reason": "r"})
        assert (await penstock.begin())["attempt_index"] == 2

    async def test_many_expire_at_once(self, penstock: RunningPenstock) -> None:
        """350 expired leases are more than one slice of the due loop."""
        await penstock.request("execution.create", [{"kind": "t"} for _ in range(350)])
        taken = 0
        while taken < 350:
            taken += len(await penstock.take(100, lease_ttl_ms=MINUTE // 2))
        penstock.move_clock(MINUTE)

        async def ready() -> int:
            [lane] = (await penstock.request("lane.list"))["items"]
            return lane["depth"]["ready"]

        await penstock.until(ready, lambda count: count == 350, "all of them")


class TestAttemptTimeout:
    async def test_an_attempt_that_takes_too_long_has_failed(self, penstock: RunningPenstock) -> None:
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        backoff = {"kind": "fixed", "delay_ms": 10_000}
        execution_id = await penstock.create(attempt_timeout_ms=MINUTE, max_attempts=2, backoff=backoff)
        task = await penstock.begin(lease_ttl_ms=60 * MINUTE)
        penstock.move_clock(MINUTE)
        record = await penstock.reaches(execution_id, "retry_wait")
        assert record["failure"]["category"] == "timeout" and record["lease"] is None
        message = msgspec.json.decode((await pushed.next_msg(timeout=WAIT_S)).data)
        assert message["lease_id"] == task["lease_id"]
        assert (await penstock.refused("lease.complete", fence(task))).code == "lease_revoked"
        penstock.move_clock(10_000)
        await penstock.reaches(execution_id, "ready")
        task = await penstock.begin(lease_ttl_ms=60 * MINUTE)
        assert task["attempt_index"] == 2
        penstock.move_clock(MINUTE)
        await penstock.reaches(execution_id, "failed")

    async def test_what_was_to_be_canceled_is_not_tried_again(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(attempt_timeout_ms=MINUTE, max_attempts=9)
        await penstock.begin(lease_ttl_ms=60 * MINUTE)
        await penstock.request("execution.cancel", {"execution_id": execution_id, "grace_ms": 30 * MINUTE})
        penstock.move_clock(MINUTE)
        assert (await penstock.reaches(execution_id, "canceled"))["outcome"] == "canceled"

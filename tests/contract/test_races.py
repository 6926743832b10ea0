"""Two things that happen to one execution or flow at the same time: in the one order, in the other, and together."""

from functools import partial
from typing import Any

import msgspec
import pytest

from flows_by_verb import get, make_flow
from penstock.errors import PenstockError
from racing import ORDERS, Step, race, rounds
from running_penstock import RunningPenstock, fence

APPROVED = {"name": "approved"}


async def running(penstock: RunningPenstock, **spec: Any) -> dict[str, Any]:
    await penstock.create(**spec)
    return await penstock.begin()


def signal(penstock: RunningPenstock, token: str, name: str = "approved") -> Step:
    return partial(penstock.request, "signal.deliver", {"token": token, "name": name})


@pytest.mark.parametrize("order", ORDERS)
class TestSignal:
    async def test_and_suspend(self, penstock: RunningPenstock, order: str) -> None:
        """Buffered and found, or waited for and resumed: the execution goes on with the signal."""
        for _ in rounds(order):
            task = await running(penstock)
            made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
            body = fence(task) | {"waitpoint_id": made["waitpoint_id"], "condition": APPROVED}
            delivered, suspended = await race(
                order, signal(penstock, made["token"]), partial(penstock.request, "lease.suspend", body)
            )
            pair = (delivered["effect"], suspended["outcome"])
            expected = {"first": ("buffered", "already_satisfied"), "second": ("resumed", "suspended")}
            assert pair in ([expected[order]] if order in expected else expected.values())
            if suspended["outcome"] == "suspended":
                task = await penstock.begin()
                assert task["resumed"]
            page = await penstock.request("signal.resumed_by", fence(task))
            assert [item["name"] for item in page["items"]] == ["approved"]
            await penstock.request("lease.complete", fence(task))

    async def test_and_timeout(self, penstock: RunningPenstock, order: str) -> None:
        for _ in rounds(order):
            task = await running(penstock)
            wait = {"condition": APPROVED, "timeout_ms": 60_000, "timeout_behavior": "fail"}
            token = (await penstock.request("lease.suspend", fence(task) | wait))["token"]

            async def time_passes(execution_id: str = task["execution_id"]) -> Any:
                penstock.move_clock(60_001)
                return await penstock.reaches(execution_id, "failed", "ready")

            delivered, record = await race(order, signal(penstock, token), time_passes)
            resumed = not isinstance(delivered, PenstockError) and delivered["effect"] == "resumed"
            if order != "together":
                assert resumed == (order == "first")
            assert record["state"] == ("ready" if resumed else "failed")
            if resumed:
                await penstock.request("lease.complete", fence(await penstock.begin()))

    async def test_and_cancel(self, penstock: RunningPenstock, order: str) -> None:
        """A cancel that was answered holds, whatever else came."""
        for _ in rounds(order):
            task = await running(penstock)
            token = (await penstock.request("lease.suspend", fence(task) | {"condition": APPROVED}))["token"]
            body = {"execution_id": task["execution_id"]}
            delivered, cancelled = await race(
                order, signal(penstock, token), partial(penstock.request, "execution.cancel", body)
            )
            assert not isinstance(cancelled, PenstockError)
            resumed = not isinstance(delivered, PenstockError) and delivered["effect"] == "resumed"
            if order != "together":
                assert resumed == (order == "first")
            await penstock.reaches(task["execution_id"], "canceled")
            assert await penstock.take(1, wait_ms=0) == []

    async def test_and_lease_expiry(self, penstock: RunningPenstock, order: str) -> None:
        """A signal that came while the lease was lost is there for who takes the execution up again."""
        for _ in rounds(order):
            task = await running(penstock)
            made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
            delivered, _ = await race(
                order,
                signal(penstock, made["token"]),
                partial(penstock.loses_its_lease, task["execution_id"]),
            )
            assert delivered["effect"] == "buffered"
            body = {"waitpoint_id": made["waitpoint_id"], "condition": APPROVED}
            stale = await penstock.refused("lease.suspend", fence(task) | body)
            assert stale.code == "lease_expired"
            again = await penstock.begin()
            suspended = await penstock.request("lease.suspend", fence(again) | body)
            assert suspended["outcome"] == "already_satisfied"
            await penstock.request("lease.complete", fence(again))

    async def test_and_another_for_the_last_place_of_a_count(
        self, penstock: RunningPenstock, order: str
    ) -> None:
        for _ in rounds(order):
            task = await running(penstock)
            condition = {"count": 2, "of": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}
            suspended = await penstock.request("lease.suspend", fence(task) | {"condition": condition})
            token = suspended["token"]
            assert (await signal(penstock, token, "a")())["effect"] == "recorded"
            replies = await race(order, signal(penstock, token, "b"), signal(penstock, token, "c"))
            assert sorted(reply["effect"] for reply in replies) == ["ignored", "resumed"]
            again = await penstock.begin()
            page = await penstock.request("signal.resumed_by", fence(again))
            assert len(page["items"]) == 2
            await penstock.request("lease.complete", fence(again))


@pytest.mark.parametrize("order", ORDERS)
class TestEvent:
    @staticmethod
    def publish(penstock: RunningPenstock, correlation_id: str) -> Step:
        return lambda: penstock.js.publish(
            f"{penstock.root}.event.ci.build",
            msgspec.json.encode({"n": correlation_id}),
            headers={"Penstock-Correlation-Id": correlation_id},
        )

    @staticmethod
    def wait(correlation_id: str) -> dict[str, Any]:
        return {"kind": "external_event", "topic": "ci.build", "correlation_id": correlation_id}

    async def test_and_set_waiting(self, penstock: RunningPenstock, order: str) -> None:
        """The event wakes the flow once: a second wait for it, under the same id, goes on waiting."""
        for n in rounds(order):
            flow = await make_flow(penstock, "a")
            body = {"flow_id": flow["flow_id"], "wait": self.wait(f"c{n}")}
            await race(
                order,
                self.publish(penstock, f"c{n}"),
                partial(penstock.request, "flow.set_waiting", body),
            )
            found = await penstock.until(
                partial(get, penstock, flow), lambda found: found["status"] == "running"
            )
            assert found["state"]["event"] == {"n": f"c{n}"}
            assert (await penstock.request("flow.set_waiting", body))["status"] == "waiting"

    async def test_and_cancel(self, penstock: RunningPenstock, order: str) -> None:
        for n in rounds(order):
            flow = await make_flow(penstock, "a")
            body = {"flow_id": flow["flow_id"], "wait": self.wait(f"c{n}")}
            await penstock.request("flow.set_waiting", body)
            await race(
                order,
                self.publish(penstock, f"c{n}"),
                partial(penstock.request, "flow.cancel", {"flow_id": flow["flow_id"], "wait": True}),
            )
            assert (await get(penstock, flow))["status"] == "cancelled"
            assert await penstock.take(1, wait_ms=0) == []


@pytest.mark.parametrize("order", ORDERS)
class TestCompletion:
    """One outcome remains, in the record, in the history and for whoever waits; a repeat of either changes nothing."""

    @pytest.mark.parametrize("grace_ms", [0, 60_000])
    async def test_and_cancel(self, penstock: RunningPenstock, order: str, grace_ms: int) -> None:
        for _ in rounds(order):
            task = await running(penstock)
            body = {"execution_id": task["execution_id"], "grace_ms": grace_ms}
            complete = partial(penstock.request, "lease.complete", fence(task) | {"result": 1})
            cancel = partial(penstock.request, "execution.cancel", body)
            completed, canceled = await race(order, complete, cancel)
            record = await penstock.get(task["execution_id"])
            if isinstance(canceled, PenstockError):
                assert (canceled.code, completed) == ("already_terminal", {"state": "completed"})
                assert (record["state"], record["result"]) == ("completed", 1)
            else:
                assert (record["state"], record["result"]) == ("canceled", None)
                if isinstance(completed, PenstockError):
                    assert completed.code == "execution_not_active"
                else:
                    assert completed == {"state": "canceled"}
            if order != "together":
                assert record["state"] == ("completed" if order == "first" else "canceled")
            await race("first", complete, cancel)
            assert await penstock.get(task["execution_id"]) == record
            await self.ended_once(penstock, task["execution_id"])

    async def test_and_cancel_of_its_flow(self, penstock: RunningPenstock, order: str) -> None:
        for _ in rounds(order):
            flow = await make_flow(penstock, "a b", "a>b")
            task = await penstock.begin()
            body = {"flow_id": flow["flow_id"], "grace_ms": 60_000, "wait": True}
            completed, cancelled = await race(
                order,
                partial(penstock.request, "lease.complete", fence(task)),
                partial(
                    penstock.request, "flow.cancel", body | ({"wait_ms": 1} if order == "second" else {})
                ),
            )
            record = await penstock.get(task["execution_id"])
            assert completed == {"state": record["state"]}
            # The member was either completed before the flow was cancelled, or is one of those that were stopped.
            stopped = task["execution_id"] in cancelled["member_execution_ids"]
            assert record["state"] == ("canceled" if stopped else "completed")
            if order != "together":
                assert stopped == (order == "second")
            assert (await get(penstock, flow))["status"] == "cancelled"
            assert (await penstock.get(flow["members"]["b"]))["state"] == "canceled"
            await self.ended_once(penstock, task["execution_id"])
            assert await penstock.take(1, wait_ms=0) == []

    @staticmethod
    async def ended_once(penstock: RunningPenstock, execution_id: str) -> None:
        page = await penstock.request("execution.history", {"execution_id": execution_id})
        ends = [event for event in page["items"] if event["event"] in ("completed", "canceled")]
        assert len(ends) == 1 and ends[0] == page["items"][-1]

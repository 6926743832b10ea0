"""Triggers: a message of another system starts an execution or a flow, without code."""

from typing import Any

import msgspec
import pytest

from running_penstock import RunningPenstock

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trigger(prefix: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "orders",
        "subject": f"{prefix}.order.*",
        "stream": prefix.upper(),
        "where": "total > `10`",
        "execution": {
            "kind": "order.ship",
            "lane": "l",
            "input": {"jmespath": "{id: id, total: total}"},
            "tags": {"order": {"jmespath": "id"}, "from": {"header": "X-From"}},
        },
        **more,
    }


@pytest.fixture
async def prefix(penstock: RunningPenstock) -> Any:
    """Create a stream for the other system's subjects; yield their prefix."""
    prefix = f"shop-{penstock.root}"
    await penstock.js.add_stream(name=prefix.upper(), subjects=[f"{prefix}.>"])
    yield prefix
    await penstock.js.delete_stream(prefix.upper())


async def order(penstock: RunningPenstock, prefix: str, n: int, total: int) -> None:
    body = msgspec.json.encode({"id": n, "total": total})
    await penstock.js.publish(f"{prefix}.order.new", body, headers={"X-From": "web"})


async def seen(penstock: RunningPenstock, count: int) -> dict[str, Any]:
    return await penstock.until(
        lambda: penstock.request("trigger.get", {"name": "orders"}), lambda found: found["seen"] >= count
    )


async def test_a_message_makes_exactly_one_execution(penstock: RunningPenstock, prefix: str) -> None:
    await penstock.request("trigger.put", trigger(prefix))
    for n in range(20):
        await order(penstock, prefix, n, 20 if n % 2 else 5)
        if n == 10:  # the restarted observer goes on where the stopped one ended
            await penstock.services["mirror-observer"].stop()
            await penstock.start_service("mirror-observer")
    await seen(penstock, 20)
    made = (await penstock.request("execution.list", {"lane": "l"}))["items"]
    assert sorted(each["input"]["id"] for each in made) == list(range(1, 20, 2))
    assert made[0]["tags"] == {"order": "19", "from": "web"} and made[0]["kind"] == "order.ship"
    found = await penstock.request("trigger.get", {"name": "orders"})
    assert found["last_error"] == "where: it does not hold"


async def test_keys_come_from_the_message(penstock: RunningPenstock, prefix: str) -> None:
    of = trigger(prefix)["execution"] | {"unique_key": {"jmespath": "id"}}
    await penstock.request("trigger.put", trigger(prefix, execution=of))
    for _ in range(3):
        await order(penstock, prefix, 7, 20)
    found = await seen(penstock, 3)
    assert (found["applied"], found["dropped"]) == (3, 0)
    assert len((await penstock.request("execution.list", {"lane": "l"}))["items"]) == 1


async def test_a_message_starts_a_flow(penstock: RunningPenstock, prefix: str) -> None:
    flow = {
        "controller_id": "shop",
        "owner": "shop",
        "goal": "an order",
        "state": {"jmespath": "@"},
        "members": [{"key": "pack", "kind": "pack"}, {"key": "ship", "kind": "ship"}],
        "edges": [{"from": "pack", "to": "ship"}],
    }
    body = trigger(prefix, flow=flow)
    del body["execution"]
    await penstock.request("trigger.put", body)
    await order(penstock, prefix, 1, 20)
    await seen(penstock, 1)
    [made] = (await penstock.request("flow.list", {"owner": "shop"}))["items"]
    assert (made["status"], made["state"]) == ("running", {"id": 1, "total": 20})
    assert (await penstock.begin())["kind"] == "pack"


async def test_a_trigger_can_be_tried(penstock: RunningPenstock, prefix: str) -> None:
    sample = {
        "subject": f"{prefix}.order.new",
        "headers": {"Nats-Msg-Id": "m", "traceparent": TRACEPARENT},
        "data": {"id": 1, "total": 20},
    }
    asked = {"trigger": trigger(prefix), "sample": sample}
    tested = await penstock.request("trigger.test", asked)
    assert tested["verb"] == "execution.create"
    assert tested["request"]["input"] == {"id": 1, "total": 20}
    assert tested["request"]["idempotency_key"] == "orders:m"
    assert tested["request"]["traceparent"] == TRACEPARENT
    sample["headers"]["traceparent"] = "not one"
    assert "traceparent" not in (await penstock.request("trigger.test", asked))["request"]
    sample["data"] = {"id": 1, "total": 1}
    assert (await penstock.request("trigger.test", asked))["dropped"] == "where: it does not hold"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"where": "a ="}, "where"),
        ({"execution": None}, "execution"),
        (
            {"flow": {"controller_id": "c", "owner": "o", "members": [{"key": "a"}]}, "execution": None},
            "flow",
        ),
        ({"stream": "NOT_THERE"}, "stream"),
        ({"subject": "{root}.signal.>"}, "subject"),
    ],
)
async def test_bad_triggers(
    penstock: RunningPenstock, prefix: str, change: dict[str, Any], field: str
) -> None:
    body = {name: value for name, value in trigger(prefix, **change).items() if value is not None}
    body["subject"] = body["subject"].replace("{root}", penstock.root)
    error = await penstock.refused("trigger.put", body)
    assert (error.code, error.detail["field"]) == ("invalid_request", field)
    for verb in ("trigger.get", "trigger.delete"):
        assert (await penstock.refused(verb, {"name": "orders"})).code == "trigger_not_found"

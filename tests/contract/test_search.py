"""execution.search: every filter, alone and together; cursors; how far a search has looked."""

from typing import Any

import pytest

from penstock import Client
from penstock.messages.search import ExecutionFilter
from running_penstock import NOWHERE, RunningPenstock, fence


async def found(penstock: RunningPenstock, limit: int = 100, **wanted: Any) -> list[str]:
    """Return the ids of all executions that match, newest first."""
    ids: list[str] = []
    cursor = None
    for _ in range(1000):
        page = await penstock.request(
            "execution.search", {"filter": wanted, "limit": limit, "cursor": cursor}
        )
        ids += [row["execution_id"] for row in page["items"]]
        cursor = page["cursor"]
        assert (cursor is None) == (page["looked_to"] is None)
        if cursor is None:
            return ids
    raise AssertionError("the cursor never ends")


async def failed(penstock: RunningPenstock, category: str = "oops", **spec: Any) -> str:
    execution_id = await penstock.create(**spec)
    task = await penstock.begin(lanes=[spec.get("lane", "default")], worker_id="w9")
    await penstock.request(
        "lease.fail", fence(task) | {"category": category, "reason": "no 7", "retryable": True}
    )
    return execution_id


def _fits(record: dict[str, Any], text: str = "", created_from: int = 0, created_until: int = 2**53) -> bool:
    return text in record["execution_id"] and created_from <= record["created_at"] < created_until


async def test_each_filter(penstock: RunningPenstock) -> None:
    plain = await penstock.create(kind="mail.send", tags={"order": "Blue-17"})
    other = await penstock.create(kind="mailbox", lane="slow", namespace="acme", tags={"order": "red"})
    lost = await failed(penstock, kind="mail.read", lane="bad")
    retried = await failed(
        penstock, category="net", kind="web", lane="worse", max_attempts=3, backoff={"delay_ms": 300_000}
    )
    await penstock.create(kind="held", lane="held")
    held = (await penstock.begin(lanes=["held"], worker_id="w7"))["execution_id"]
    everything = [held, retried, lost, other, plain]
    record = await penstock.get(lost)
    for wanted, expected in (
        ({}, everything),
        ({"namespace": "acme"}, [other]),
        ({"lane": "slow"}, [other]),
        ({"lane": "slow", "states": ["failed"]}, []),
        ({"kind": "mail.send"}, [plain]),
        ({"kind": "mail.*"}, [lost, plain]),
        ({"states": ["failed"]}, [lost]),
        ({"states": ["ready", "failed"]}, [lost, other, plain]),
        ({"tag": "order"}, [other, plain]),
        ({"tag": "order=red"}, [other]),
        ({"tag": "order=red", "lane": "default"}, []),
        ({"worker_id": "w7"}, [held]),
        ({"text": "BLUE"}, [plain]),
        ({"text": "mailb"}, [other]),
        ({"text": plain[8:20]}, None),
        ({"text": lost}, [lost]),
        ({"text": NOWHERE}, []),
        ({"failure_category": "net"}, [retried]),
        ({"failure_category": "oops", "kind": "mail.*"}, [lost]),
        ({"failure_category": "other"}, []),
        ({"min_attempts": 1}, [held, retried, lost]),
        ({"max_attempts": 0}, [other, plain]),
        ({"created_from": record["created_at"]}, None),
        ({"created_until": record["created_at"]}, None),
        ({"finished_from": record["finished_at"]}, [lost]),
        ({"finished_from": record["finished_at"] + 1}, []),
        ({"finished_until": record["finished_at"] + 1}, [lost]),
        ({"finished_until": record["finished_at"]}, []),
    ):
        ids = await found(penstock, **wanted)
        if expected is None:
            expected = [each for each in everything if _fits(await penstock.get(each), **wanted)]
            assert expected
        assert ids == expected, wanted
        assert await found(penstock, limit=1, **wanted) == expected, wanted


async def test_a_row_has_no_payload_but_the_rest(penstock: RunningPenstock) -> None:
    execution_id = await penstock.create(input={"secret": 1}, tags={"a": "b"}, priority=3)
    await penstock.begin(worker_id="w1")
    page = await penstock.request("execution.search")
    (row,) = page["items"]
    record = await penstock.get(execution_id)
    assert "input" not in row and "secret" not in str(row)
    assert row["worker_id"] == "w1"
    assert {name: row[name] for name in ("tags", "priority", "state", "started_at", "attempt_index")} == {
        name: record[name] for name in ("tags", "priority", "state", "started_at", "attempt_index")
    }
    assert page["looked"] == 1


async def test_a_flow_and_its_members(penstock: RunningPenstock) -> None:
    await penstock.create()
    flow = await penstock.request(
        "flow.create",
        {
            "controller_id": "c",
            "owner": "o",
            "goal": "g",
            "members": [{"key": k, "kind": "k"} for k in "abc"],
        },
    )
    ids = await found(penstock, flow_id=flow["flow_id"])
    assert len(ids) == 3
    assert await found(penstock, limit=1, flow_id=flow["flow_id"]) == ids
    assert await found(penstock, flow_id=NOWHERE) == []


async def test_the_children_of_a_parent_whatever_became_of_them(penstock: RunningPenstock) -> None:
    parent = await penstock.create(lane="parents")
    ids = [await penstock.create(parent_id=parent) for _ in range(2)]
    ids = [await penstock.create(parent_id=parent, parent_close="let_run"), *ids[::-1]]
    await penstock.request("execution.cancel", {"execution_id": ids[2]})
    assert await found(penstock, parent_id=parent) == ids
    assert await found(penstock, limit=1, parent_id=parent) == ids
    assert await found(penstock, parent_id=parent, states=["canceled"]) == ids[2:]
    assert await found(penstock, parent_id=ids[0]) == []


async def test_a_rare_one_among_many_takes_bounded_looks(penstock: RunningPenstock, client: Client) -> None:
    rare = await penstock.create(tags={"needle": "x"})
    for _ in range(penstock.settings.partitions):  # one page looks at 1,000 in each partition at most
        await penstock.request("execution.create", [{"kind": "test.job"}] * 1200)
    page = await penstock.request("execution.search", {"filter": {"text": "needle"}})
    assert page["items"] == [] and page["cursor"] is not None
    assert 0 < page["looked"] <= 1000 * penstock.settings.partitions
    assert page["looked_to"] >= (await penstock.get(rare))["created_at"]
    assert await found(penstock, text="needle") == [rare]
    assert [row.execution_id async for row in client.search(text="needle")] == [rare]
    assert await found(penstock, tag="needle") == [rare]


@pytest.mark.parametrize(
    "wrong",
    [
        {"states": []},
        {"states": ["lost"]},
        {"text": ""},
        {"kind": "a.*.b"},
        {"unknown": 1},
        {"min_attempts": -1},
    ],
)
async def test_a_filter_that_cannot_be(penstock: RunningPenstock, wrong: dict[str, Any]) -> None:
    error = await penstock.refused("execution.search", {"filter": wrong})
    assert error.code == "invalid_request" and next(iter(wrong)) in str(error.detail) + str(error)


async def test_an_unknown_failure_group(penstock: RunningPenstock) -> None:
    error = await penstock.refused("execution.search", {"filter": {"failure_group": "0" * 16}})
    assert (error.code, error.detail) == ("invalid_request", {"field": "filter.failure_group"})


async def test_the_client_has_a_method_for_each(penstock: RunningPenstock, client: Client) -> None:
    ids = [await penstock.create(kind="ship", lane="a") for _ in range(3)]
    begun = await client.bulks.start("set_tags", ExecutionFilter(lane="a"), tags={"of": "bulk"}, rate=1000)
    await penstock.until(
        lambda: client.bulks.get(begun.bulk_id), lambda seen: seen.status == "finished", "its end"
    )
    assert (await client.bulks.stop(begun.bulk_id)).done == 3
    assert [each.bulk_id async for each in client.bulks.list(status="finished")] == [begun.bulk_id]
    assert [each.execution_id async for each in client.search(tag="of=bulk")] == ids[::-1]

    assert (await client.lanes.stats("a", minutes=0)).lane == "a"
    assert (await client.lanes.blocked("a")).items == []
    assert [each async for each in client.workers.kinds()] == []
    await failed(penstock, kind="ship", lane="a")
    groups = await penstock.until(lambda: client.failures(kind="ship"), bool, "the group")
    assert [(each.category, each.reason) for each in groups] == [("oops", "no <n>")]

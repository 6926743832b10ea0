"""A request that is sent twice, at once or after a crash, is answered as if it had been sent once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from penstock.machine import DeploymentError, Machine, Op
from penstock.machine.ops import scheduler as ops
from running_penstock import RunningPenstock

MEMBERS = 1500
CAP = 1000


async def test_a_second_flow_cancel_beside_the_first_names_all_members(penstock: RunningPenstock) -> None:
    members = [{"key": f"m{n}", "kind": "test.job"} for n in range(MEMBERS)]
    flow = await penstock.request(
        "flow.create", {"controller_id": "c", "owner": "o", "goal": "g", "members": members}
    )
    await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
    ask = {"flow_id": flow["flow_id"], "policy": "cancel_all", "wait": True}
    replies = await asyncio.gather(*(penstock.request("flow.cancel", ask) for _ in range(3)))
    counts = sorted(len(reply["member_execution_ids"]) for reply in replies)
    assert counts == [CAP, CAP, MEMBERS]  # a retry names at most 1000 members, the first reply names all
    assert {reply["result"] for reply in replies} == {"cancelled"}
    for reply in replies:
        cut = len(reply["member_execution_ids"]) < MEMBERS
        assert reply.get("member_count") == (MEMBERS if cut else None)
        assert "failed_member_execution_ids" not in reply
    again = await penstock.request("flow.cancel", ask)
    assert len(again["member_execution_ids"]) == CAP


@pytest.mark.parametrize("verb", ["execution.create", "execution.replay"])
async def test_a_repeat_after_a_crash_between_make_and_settle_is_a_duplicate(
    penstock: RunningPenstock, verb: str
) -> None:
    parent = await penstock.create()
    body: dict[str, Any]
    if verb == "execution.create":
        body = {"kind": "test.job", "parent_id": parent, "idempotency_key": "k"}
    else:
        await penstock.request("execution.cancel", {"execution_id": parent})
        body = {"execution_id": parent, "idempotency_key": "k"}
    machine = penstock.running["scheduler"].context.machine
    real, crashed = machine.run, asyncio.Event()

    async def run(op: Op[Any], at: int | None = None) -> Any:
        if isinstance(op, ops.Settle):
            crashed.set()
            raise RuntimeError("the process dies here")
        return await real(op, at)

    machine.run = run
    error = await penstock.refused(verb, body)
    assert error.code == "internal" and crashed.is_set()
    machine.run = real
    first, second = [await penstock.request(verb, body) for _ in range(2)]
    assert (first["duplicate"], second["duplicate"]) == (True, True)
    assert first["execution_id"] == second["execution_id"]


async def test_an_item_of_a_batch_of_lists_that_fails_hurts_no_other(penstock: RunningPenstock) -> None:
    execution_id = await penstock.create()
    machine = penstock.running["scheduler"].context.machine
    real = machine.run_many

    def run_many(asked: Sequence[Op[Any]], at: Sequence[int] | None = None) -> Any:
        if any(isinstance(op, ops.List) and op.kind == "broken" for op in asked):
            raise RuntimeError("a bug")
        return real(asked, at)

    machine.run_many = run_many
    asked = [{"kind": "test.job"}, {"kind": "broken"}, {}]
    first, broken, last = await penstock.request("execution.list", asked)
    for answer in (first, last):
        assert [item["execution_id"] for item in answer["ok"]["items"]] == [execution_id]
    assert broken["error"]["code"] == "internal"


async def test_a_deployment_keeps_the_number_of_partitions_it_was_started_with(
    penstock: RunningPenstock,
) -> None:
    settings = penstock.settings
    for partitions in (settings.partitions + 1, settings.partitions + 3):
        with pytest.raises(DeploymentError, match=f"PENSTOCK_PARTITIONS={settings.partitions}"):
            await Machine.connect(
                settings.valkey_url, service="scheduler", root=settings.root, partitions=partitions, dev=True
            )
    machine = await Machine.connect(
        settings.valkey_url, service="scheduler", root=settings.root, partitions=settings.partitions, dev=True
    )
    await machine.close()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"kind": "\\ud800"}', "kind"),
        (b'{"kind": "k", "tags": {"a": "x\\udfff"}}', "tags.a"),
        (b'{"kind": "k", "capabilities": ["c", "\\ud800x"]}', "capabilities[1]"),
    ],
)
async def test_half_a_surrogate_pair_is_refused_by_name(
    penstock: RunningPenstock, body: bytes, field: str
) -> None:
    for sent, named in ((body, field), (b"[" + body + b"]", f"[0].{field}")):
        reply = (await penstock.ask("execution.create", sent)).data.decode()
        assert "surrogate" in reply and f'"field":"{named}"' in reply


async def test_service_discovery_says_what_each_service_and_stream_is_for(penstock: RunningPenstock) -> None:
    seen = msgspec.json.decode(
        (await penstock.nats.request(f"$SRV.INFO.{penstock.root}-scheduler", b"")).data
    )
    assert "hands ready work to workers" in seen["description"]
    for stream in await penstock.js.streams_info():
        if str(stream.config.name).startswith(penstock.root.upper()):
            assert str(stream.config.description).startswith("Penstock: ")

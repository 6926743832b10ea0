"""An op that fails changes nothing and harms no other op. The library has extra ops here that fail on purpose."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from penstock.errors import PenstockError
from penstock.ids import new_id
from penstock.store.library import assemble
from running_penstock import fence
from servers import valkey_server
from state_machine import StateMachine

FAILING_OPS = """
do
  local ops, keeper = Ops.scheduler, Ops.lease_keeper

  local function everything(a)
    local x = Records.edit('x', a.execution_id)
    x.progress = { pct = 1 }
    Payloads.put('input', a.execution_id, 'spoilt')
    Executions.create(a.new_id, { kind = 't', lane = 'new', tags = { a = 'b' } }, {})
    Idempotency.keep('spoil', 'default', 'key', 'digest', {})
    Call.hint_item('cancel', { 'w', 'x', 'l' })
    Call.hint('ready', 'spoilt', 1)
    Executions.stop(x, 'spoilt', 'canceled', 'test')
    Records.settle()
    if a.retire then Executions.retire(x) end
  end

  -- Changes whatever it can, and fails.
  function ops.spoil(a)
    everything(a)
    if a.code then Errors.raise(a.code) end
    error('on purpose')
  end
  keeper.spoil = ops.spoil

  -- Goes on after a part of it has failed.
  function ops.spoil_within(a)
    local x = Records.edit('x', a.execution_id)
    x.progress = { pct = 7 }
    local ok = Records.attempt(ops.spoil, a)
    return { ok = ok, pct = x.progress.pct, state = x.state }
  end

  -- A reply that cannot be packed, and a record whose place cannot be told.
  function ops.bad_reply(a)
    everything(a)
    return { [1] = function() end, n = {} .. 1 }
  end
  function ops.bad_record(a)
    everything(a)
    local x = Records.edit('x', a.other_id)
    x.lane, x.tags = nil, a.tags
    return {}
  end

  -- Leaves work in a flow's graph that nobody can do.
  function ops.bad_graph(a)
    Graph.push(Records.read('f', a.flow_id), { kind = 'nonsense' })
    return {}
  end

  function ops.bad_due(a)
    local function handler(x)
      everything({ execution_id = x.id, new_id = a.new_id })
      error('late')
    end
    Due.serve('scheduler', { x = handler })
    return Due.run('scheduler', 10)
  end
end
"""


@pytest.fixture(scope="module")
def own_valkey_url() -> Iterator[str]:
    with valkey_server() as url:
        yield url


@pytest.fixture
async def machine(own_valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(own_valkey_url) as machine:
        load = ("FUNCTION", "LOAD", "REPLACE", assemble()[0] + FAILING_OPS)
        await machine.stores["scheduler"].execute(*load)
        yield machine


async def contents(machine: StateMachine) -> dict[str, bytes]:
    """Return everything in Valkey under the machine's root."""
    store = machine.stores["scheduler"]
    names = await store.execute("KEYS", f"{machine.root}:*")
    return {name.decode(): await store.execute("DUMP", name) for name in sorted(names)}


async def held_member(machine: StateMachine) -> tuple[str, dict[str, Any]]:
    """Make a running flow member with a waitpoint, whose end a client waits for. Return the flow's id and the task."""
    flow_id, members = await machine.flow(["first", "second"], [("first", "second")])
    [task] = await machine.take()
    assert task["execution_id"] == members["first"]
    await machine(
        "signal-router", "create", **fence(task), id=new_id(0), waitpoint_key="k", expires_in_ms=60_000
    )
    await machine("scheduler", "wait", execution_id=task["execution_id"])
    return flow_id, task


def spoil(task: dict[str, Any], op: str = "spoil", **more: Any) -> tuple[int, str, dict[str, Any]]:
    return 0, op, {"execution_id": task["execution_id"], "new_id": new_id(0), **more}


@pytest.mark.parametrize(
    ("op", "more"),
    [
        ("spoil", {}),
        ("spoil", {"code": "invalid_request"}),
        ("spoil", {"retire": True}),
        ("bad_reply", {}),
        ("bad_record", {}),
        ("bad_record", {"tags": {"a": "b"}}),  # no plain execution any more
    ],
)
async def test_an_op_that_fails_changes_nothing(machine: StateMachine, op: str, more: dict[str, Any]) -> None:
    _, task = await held_member(machine)
    other = await machine.create(lane="new")
    before, told = await contents(machine), len(machine.hints)
    [error] = await machine.stores["scheduler"].call_many([spoil(task, op, other_id=other, **more)])
    assert isinstance(error, PenstockError)
    assert error.code == more.get("code", "internal")
    assert await contents(machine) == before
    assert machine.hints[told:] == []


async def test_neighbours_of_an_op_that_fails_keep_what_they_did(machine: StateMachine) -> None:
    """Neighbors are ops before it in the same call, on the same records, and ops after it."""
    flow_id, task = await held_member(machine)
    lonely = await machine.create(lane="elsewhere")
    keeper = machine.stores["lease-keeper"]
    progress = (0, "progress", {**fence(task), "pct": 50})
    complete = (0, "complete", {**fence(task), "result": '"done"'})
    replies = await keeper.call_many([progress, spoil(task), complete, spoil({"execution_id": lonely})])
    assert [isinstance(reply, PenstockError) for reply in replies] == [False, True, False, True]
    record = await machine.get(task["execution_id"])
    assert (record["state"], record["result"], record["progress"]["pct"]) == ("completed", '"done"', 50)
    assert (await machine.get(lonely))["state"] == "ready"
    # The flow's graph work is complete: its second member is ready.
    assert (await machine.flow_get(flow_id))["counts"] == {"completed": 1, "ready": 1}
    names = await machine.names("execution", task["execution_id"])
    assert names == ["created", "ready", "started", "progress", "completed"]
    assert machine.told("cancel") == []


async def test_a_part_that_fails_is_taken_back_alone(machine: StateMachine) -> None:
    _, task = await held_member(machine)
    args = {"execution_id": task["execution_id"], "new_id": new_id(0)}
    reply = await machine("scheduler", "spoil_within", **args)
    assert reply == {"ok": False, "pct": 7, "state": "running"}
    record = await machine.get(task["execution_id"])
    assert (record["state"], record["progress"]["pct"]) == ("running", 7)


async def test_a_graph_that_fails_hurts_no_command(
    machine: StateMachine, caplog: pytest.LogCaptureFixture
) -> None:
    flow_id, task = await held_member(machine)
    execution_id = new_id(0)
    create = (0, "create", {"id": execution_id, "namespace": "default", "spec": {"kind": "t"}})
    [_, reply] = await machine.stores["scheduler"].call_many([(0, "bad_graph", {"flow_id": flow_id}), create])
    assert not isinstance(reply, PenstockError)
    assert (await machine.get(execution_id))["state"] == "ready"
    assert len(machine.told("faults")) == 1
    assert flow_id in caplog.text
    # The flow goes on; the failed work is kept and tried again a minute later.
    await machine.outcome("complete", task)
    assert (await machine.flow_get(flow_id))["counts"] == {"completed": 1, "ready": 1}
    assert await machine.stores["scheduler"].execute("LLEN", f"{machine.root}:{{0}}:fw:{flow_id}") == 1
    machine.skew_ms += 61_000
    await machine("scheduler", "due", limit=100)
    assert len(machine.told("faults")) == 2


async def test_a_due_handler_that_fails_changes_nothing(machine: StateMachine) -> None:
    execution_id = await machine.create(run_at=4_000_000_000_000)
    await machine.create(lane="new")
    machine.skew_ms = 4_000_000_000_000
    before = await contents(machine)
    reply = await machine("scheduler", "bad_due", new_id=new_id(0))
    assert [error.startswith(f"x {execution_id}: ") for error in reply["errors"]] == [True]
    after = await contents(machine)
    due = f"{machine.root}:{{0}}:due:scheduler:x"
    assert before.pop(due) != after.pop(due), "it comes again a minute later"
    assert before == after

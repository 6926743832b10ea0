"""The agent comes to the same end wherever its worker dies, pays for each token once, and asks a person."""

from typing import Any

import pytest

from agent.agent import worker
from penstock import Client
from penstock.testing import Penstock, crash_everywhere

pytestmark = pytest.mark.asyncio

TOKENS = 77
"""What the whole talk uses."""


async def budget_of(client: Client, tokens: int) -> dict[str, Any]:
    """Make a budget. Return what `submit` is to be given to use it."""
    budget = await client.budgets.create({"tokens": tokens})
    goal = {"text": "a day on the lake", "budget": budget.budget_id}
    return {"input": goal, "budget_ids": [budget.budget_id]}


async def test_an_agent_survives_a_crash_anywhere(penstock: Penstock) -> None:
    client = await penstock.client()
    given = await budget_of(client, 1_000_000)
    places = await crash_everywhere(penstock, worker, "agent", signals={"answer": "yes"}, **given)
    assert {place.verb for place in places} == {"journal.append", "lease.park", "lease.complete"}
    runs = [run async for run in client.list(kind="agent")]
    budget = await client.budgets.get(given["budget_ids"][0])
    assert budget.dimensions["tokens"].used == len(runs) * TOKENS, "each token counts once"


async def test_a_budget_holds_the_agent(penstock: Penstock) -> None:
    """It passes its budget with the third answer, and goes on when there is more: it thinks no thought twice."""
    client = await penstock.client()
    await penstock.run_worker(worker)
    given = await budget_of(client, 30)
    run = await client.submit("agent", **given)
    await penstock.wait_for(run, "suspended")
    assert await client.journals.state(run.execution_id) == {"question": "Shall I book the boat?"}
    await client.send_signal(run.execution_id, "answer", "no")
    assert (await penstock.wait_for(run, "suspended")).reason == "budget"
    await client.budgets.replenish(given["budget_ids"][0], {"tokens": 100})
    assert await run.result(timeout=20) == "Done: no boat was booked."
    words = [str(frame.payload) async for frame in client.frames(run.execution_id)]
    assert " ".join(words) == "I look up the weather. Shall I book the boat? Done: no boat was booked."

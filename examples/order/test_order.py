"""The order comes to the same end wherever its worker dies, and undoes what it did when it fails."""

import pytest

from order.order import worker
from penstock import ExecutionFailed
from penstock.testing import Penstock, crash_everywhere

pytestmark = pytest.mark.asyncio


async def test_an_order_survives_a_crash_anywhere(penstock: Penstock) -> None:
    book = {"id": "o1", "items": ["book", "pen"], "cents": 200_00}
    places = await crash_everywhere(penstock, worker, "order", book, signals={"approved": True})
    assert {place.verb for place in places} == {"journal.append", "lease.park", "lease.complete"}


async def test_an_order_that_fails_is_undone(penstock: Penstock) -> None:
    client = await penstock.client()
    await penstock.run_worker(worker)
    run = await client.submit("order", {"id": "o2", "items": ["book", "sold out"], "cents": 1})
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=20)
    assert caught.value.category == "out_of_stock"
    undone = [entry.key async for entry in client.journals.read(run.execution_id) if entry.kind == "undo"]
    assert undone == ["undo:release#sold out", "undo:release#book", "undo:refund"]

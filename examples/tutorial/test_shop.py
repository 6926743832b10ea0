"""Step 7: tests of the shop, on a real Penstock with a clock that moves."""

from datetime import timedelta

import orders
import pytest
import refunds
import shop

from penstock import ExecutionFailed
from penstock.testing import Penstock, crash_everywhere

pytestmark = pytest.mark.asyncio


async def test_an_unknown_item_has_no_price(penstock: Penstock) -> None:
    client = await penstock.client()
    await penstock.run_worker(shop.worker)
    run = await client.submit("order.price", {"lines": [{"item": "unicorn"}]}, max_attempts=5)
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=20)
    assert caught.value.category == "unknown_item"
    assert (await run.get()).attempt_index == 1  # it was not tried again


async def test_nobody_decides_for_three_days(penstock: Penstock) -> None:
    client = await penstock.client()
    await penstock.run_worker(refunds.worker)
    run = await client.submit("order.refund", {"order": "o1", "cents": 200_00})
    await penstock.wait_for(run, "suspended")
    penstock.clock.move(timedelta(days=3))
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=20)
    assert caught.value.category == "not_approved"


async def test_an_order_survives_a_crash_anywhere(penstock: Penstock) -> None:
    order = {"id": "o1", "items": ["book", "pen"], "cents": 14_50}
    await crash_everywhere(penstock, orders.worker, "order.handle", order)

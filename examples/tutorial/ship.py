"""Step 5: makes a flow of one order, starts it and waits for its end."""

import asyncio
import os

from penstock import Client, FlowRun

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")


async def shipment(client: Client, items: list[str]) -> FlowRun:
    """Pick all items at once, box them when all are there, ship with the carrier that answers first."""
    flow = await client.flows.create(
        f"ship {', '.join(items)}",
        members=[
            *({"key": item, "kind": "warehouse.pick", "input": {"item": item}} for item in items),
            {"key": "box", "kind": "warehouse.box"},
            {"key": "post", "kind": "carrier.ask", "input": {"carrier": "post", "minutes": 60}},
            {"key": "bike", "kind": "carrier.ask", "input": {"carrier": "bike", "minutes": 0.01}},
            {"key": "choose", "kind": "carrier.choose"},
            {"key": "ship", "kind": "warehouse.ship"},
        ],
        edges=[
            *({"from": item, "to": "box", "data": item} for item in items),
            {"from": "post", "to": "choose", "data": "post"},
            {"from": "bike", "to": "choose", "data": "bike"},
            {"from": "box", "to": "ship", "data": "box"},
            {"from": "choose", "to": "ship", "data": "carrier"},
        ],
        joins={"choose": {"policy": "any_of", "on_satisfied": "cancel_remaining"}},
    )
    await flow.start()
    return flow


async def main() -> None:
    async with await Client.connect(NATS_URL) as client:
        flow = await shipment(client, ["book", "pen"])
        print(flow.flow_id)
        print((await flow.wait(timeout=60)).status)
        print(await flow.members["ship"].result())


if __name__ == "__main__":
    asyncio.run(main())

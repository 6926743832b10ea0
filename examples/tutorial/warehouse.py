"""Step 5: the kinds of work of a warehouse."""

import asyncio

from penstock import Worker

worker = Worker("nats://localhost:4222")


@worker.handler("warehouse.pick")
async def pick(item: str) -> str:
    await asyncio.sleep(0.5)
    return f"a {item}"


@worker.handler("warehouse.box")
async def box(input: dict[str, str]) -> str:
    """The input has the result of each edge, by the edge's `data`."""
    return "box with " + " and ".join(sorted(input.values()))


@worker.handler("carrier.ask")
async def ask(carrier: str, minutes: float) -> str:
    await asyncio.sleep(60 * minutes)
    return carrier


@worker.handler("carrier.choose")
async def choose(input: dict[str, str]) -> str:
    """The input has only the answers that there are."""
    return min(input.values())


@worker.handler("warehouse.ship")
async def ship(box: str, carrier: str) -> str:
    return f"{box}, by {carrier}"


if __name__ == "__main__":
    worker.main()

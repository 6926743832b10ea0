"""Batches of published signals that overlap: a waitpoint gets its signals in the order in which they were published."""

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from penstock.bus.outcomes import ACK
from penstock_signal_router.published import Published
from penstock_signal_router.signals import Signals
from penstock_signal_router.tokens import Tokens
from running_penstock import RunningPenstock, fence


async def waiting(penstock: RunningPenstock) -> dict[str, Any]:
    """Return a waitpoint, with its token, that waits for a signal which never comes."""
    await penstock.create()
    return await penstock.request(
        "lease.suspend", fence(await penstock.begin()) | {"condition": {"name": "never"}}
    )


def message(penstock: RunningPenstock, waits: dict[str, Any], name: str, seq: int) -> Msg:
    """Return a published signal as JetStream hands it out."""
    return Msg(
        penstock.nats,
        f"{penstock.root}.signal.{waits['waitpoint_id']}.{name}",
        f"$JS.ACK.S.signal-router.1.{seq}.{seq}.1700000000000000000.0",
        b"",
        {"Penstock-Token": waits["token"]},
    )


@pytest.mark.parametrize("known", [True, False])
async def test_a_batch_does_not_overtake_one_that_has_to_ask(penstock: RunningPenstock, known: bool) -> None:
    new, other = await waiting(penstock), await waiting(penstock)
    machine = penstock.services["signal-router"].context.machine
    signals = Signals(machine, Tokens(machine, machine.clock.now))
    published = Published(signals, penstock.root, 1024)
    if known:  # of the other waitpoint nothing has to be asked
        await published.handle([message(penstock, other, "zero", 9)])
    outcomes = await asyncio.gather(
        published.handle([message(penstock, new, "one", 1), message(penstock, other, "two", 2)]),
        published.handle([message(penstock, other, "three", 3)]),
        published.handle([message(penstock, other, "four", 4), message(penstock, new, "five", 5)]),
    )
    assert outcomes == [[ACK, ACK], [ACK], [ACK, ACK]]

    async def names(waits: dict[str, Any]) -> list[str]:
        kept = await penstock.request("signal.list", {"waitpoint_id": waits["waitpoint_id"]})
        return [each["name"] for each in kept["items"]]

    assert await names(new) == ["one", "five"]
    assert await names(other) == ["zero"] * known + ["two", "three", "four"]

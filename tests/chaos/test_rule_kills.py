"""Kill a mirror-observer after a message's effect is in Valkey and before it acknowledges the message, or in between.

Rules and triggers follow a JetStream stream, which hands the message to another observer: one effect, not two.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js.api import ConsumerInfo

from proxies import NatsProxy
from running_penstock import RunningPenstock
from service_processes import kill, process_of
from trail import counted_trail

OBSERVER = "mirror-observer"
MANY = 300
KEYS = 5
SHIP = {"kind": "order.ship", "lane": "orders", "input": {"jmespath": "n"}}
PACK = {"controller_id": "shop", "owner": "shop", "members": [{"key": "pack", "kind": "pack"}]}


def rule(prefix: str) -> dict[str, Any]:
    return {
        "name": "r",
        "subject": f"{prefix}.*",
        "stream": prefix.upper(),
        "flow": {"key": {"token": 2}, "create": {"controller_id": "c", "owner": "mirrored"}},
        "run_id": {"jmespath": "n"},
        "task": {"const": "t"},
        "status": {"const": "running"},
    }


def trigger(prefix: str, **what: Any) -> dict[str, Any]:
    return {"name": "r", "subject": f"{prefix}.*", "stream": prefix.upper(), **what}


class Shop:
    """A Penstock without mirror-observers, and another system's stream."""

    def __init__(self, penstock: RunningPenstock, folder: Path) -> None:
        self.penstock = penstock
        self.prefix = f"shop-{penstock.root}"
        self.stream = self.prefix.upper()
        self._folder = folder

    @classmethod
    @asynccontextmanager
    async def open(cls, nats_url: str, valkey_url: str, folder: Path) -> AsyncIterator["Shop"]:
        async with RunningPenstock.open(nats_url, valkey_url) as penstock:
            await penstock.running.pop(OBSERVER).stop()
            shop = cls(penstock, folder)
            await penstock.js.add_stream(name=shop.stream, subjects=[f"{shop.prefix}.>"])
            try:
                yield shop
            finally:
                await penstock.js.delete_stream(shop.stream)

    def observer(self, name: str, nats_url: str | None = None) -> Any:
        return process_of(self.penstock, OBSERVER, self._folder / name, nats_url)

    async def publish(self, count: int) -> None:
        for n in range(count):
            await self.penstock.js.publish(f"{self.prefix}.k{n % KEYS}", msgspec.json.encode({"n": n}))

    async def consumer(self) -> ConsumerInfo | None:
        """Return what the stream knows of the observers' common durable, None while there is none."""
        consumers = await self.penstock.js.consumers_info(self.stream)
        return consumers[0] if consumers else None

    async def followed_by(self, count: int) -> None:
        await self.penstock.until(
            self.consumer, lambda info: info and info.num_waiting == count, f"{count} observers that follow"
        )

    async def all_delivered(self, held: int) -> None:
        """Wait until each message has been handled, and all but `held` of them are acknowledged."""
        await self.penstock.until(
            self.consumer,
            lambda info: info and not info.num_pending and info.num_ack_pending == held,
            "all messages done",
        )

    async def made_by_a_dead_observer(self, proxy: NatsProxy) -> dict[str, Any]:
        """Let an observer make a flow for one message, and kill it when the proxy holds something back."""
        async with self.observer("first", proxy.url) as first:
            await self.penstock.request("trigger.put", trigger(self.prefix, flow=PACK))
            await self.followed_by(1)
            await self.publish(1)
            await proxy.held_back(1)
            await kill(first)
        return await self.flow()

    async def flow(self) -> dict[str, Any]:
        [flow] = (await self.penstock.request("flow.list", {"owner": "shop"}))["items"]
        return flow

    async def after_a_second_observer(self) -> dict[str, Any]:
        """Let another observer handle the message again. Return the flow, which was started once."""
        async with self.observer("second"):
            await self.all_delivered(0)
            found = await self.penstock.until(
                lambda: self.penstock.request("trigger.get", {"name": "r"}), lambda found: found["seen"] > 0
            )
            assert found["dropped"] == 0
        flow = await self.flow()
        events = await counted_trail(self.penstock)
        assert events["flow", flow["flow_id"], "started"] == 1
        return flow


async def killed_with_its_share(shop: Shop, proxy: NatsProxy, put: tuple[str, dict[str, Any]]) -> None:
    """Let two observers share the messages, and kill one when nobody but it knows what it has handled."""
    async with shop.observer("first", proxy.url) as first, shop.observer("second"):
        await shop.penstock.request(*put)
        await shop.followed_by(2)
        proxy.hold_acks()
        await shop.publish(MANY)
        await proxy.held_back(1)
        await shop.penstock.until(
            shop.consumer,
            lambda info: info and not info.num_pending and info.num_ack_pending == len(proxy.held),
            "all messages handled",
        )
        share = len(proxy.held)
        assert 0 < share < MANY, "only one observer got messages"
        await kill(first)
        await shop.all_delivered(0)


async def test_each_message_is_observed_once(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with Shop.open(nats_url, valkey_url, tmp_path) as shop, NatsProxy.before(nats_url) as proxy:
        await killed_with_its_share(shop, proxy, ("mirror_rule.put", rule(shop.prefix)))
        flows = (await shop.penstock.request("flow.list", {"owner": "mirrored"}))["items"]
        assert sorted(flow["goal"] for flow in flows) == [f"k{n}" for n in range(KEYS)]
        events = await counted_trail(shop.penstock)
        for flow in flows:
            assert flow["counts"] == {"running": MANY / KEYS}
            assert events["flow", flow["flow_id"], "observed"] == MANY / KEYS
            assert not events["flow", flow["flow_id"], "observation_dropped"]


async def test_each_message_makes_one_execution(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with Shop.open(nats_url, valkey_url, tmp_path) as shop, NatsProxy.before(nats_url) as proxy:
        await killed_with_its_share(shop, proxy, ("trigger.put", trigger(shop.prefix, execution=SHIP)))
        made = (await shop.penstock.request("execution.list", {"lane": "orders", "limit": 1000}))["items"]
        assert sorted(each["input"] for each in made) == list(range(MANY))


async def test_a_flow_that_was_made_is_started(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with Shop.open(nats_url, valkey_url, tmp_path) as shop, NatsProxy.before(nats_url) as proxy:
        start = f"{shop.penstock.root}.v1.flow.start"
        proxy.holds = lambda subject, body: subject == start
        flow = await shop.made_by_a_dead_observer(proxy)
        assert flow["status"] == "created"
        assert (await shop.after_a_second_observer())["status"] == "running"


@pytest.mark.parametrize("status", ["waiting", "finished"])
async def test_a_flow_is_started_once(nats_url: str, valkey_url: str, tmp_path: Path, status: str) -> None:
    """What happens to the flow before its message comes again is not undone."""
    async with Shop.open(nats_url, valkey_url, tmp_path) as shop, NatsProxy.before(nats_url) as proxy:
        proxy.hold_acks()
        flow = await shop.made_by_a_dead_observer(proxy)
        assert flow["status"] == "running"
        at = {"flow_id": flow["flow_id"]}
        if status == "waiting":
            await shop.penstock.request("flow.set_waiting", at | {"wait": {"kind": "manual"}})
        else:
            await shop.penstock.request("flow.finish", at)
        assert (await shop.after_a_second_observer())["status"] == status

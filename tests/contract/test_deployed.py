"""A Penstock on the servers that deploy/ configures: the doctor agrees, and what alerts and panels ask for is there."""

import asyncio
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from deploy_files import DEPLOY, GATEWAY, OPERATIONS, SERVICES, expressions, selectors
from http_gateway import Gateway, gateway_of
from penstock.cli import doctor
from penstock.errors import TABLE
from penstock.local import servers as embedded
from penstock.runtime import Running, start
from penstock.runtime.membership import owner
from penstock.runtime.metrics import Metrics
from penstock.testing.servers import ServerProcess, running
from penstock_scheduler.service import build
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

CLASSES = {kind.error_class for kind in TABLE.values()}


@contextmanager
def deployed_nats() -> Iterator[str]:
    """Run nats-server on deploy/nats/single.conf; only its addresses and its folder are other ones."""

    def server(folder: Path) -> ServerProcess:
        binary, port = embedded.find_nats(), embedded.choose_port(0, None)
        text = (DEPLOY / "nats" / "single.conf").read_text()
        config = (
            folder / "nats.conf"
        )  # nats-server refuses an option for the folder beside the configuration's
        config.write_text(text.replace("/var/lib/nats", str(folder)))
        command = [
            str(binary.path), "--config", str(config), "--addr", "127.0.0.1",
            "--port", str(port), "--http_port", str(embedded.choose_port(0, None)),
        ]  # fmt: skip
        url = f"nats://127.0.0.1:{port}"
        return ServerProcess(embedded.Server(binary.name, binary.version, url, port, command), folder)

    with running(server) as process:
        yield process.url


@contextmanager
def deployed_valkey(name: str) -> Iterator[str]:
    """Run valkey-server on a file of deploy/valkey; only its addresses and its folder are other ones."""

    def server(folder: Path) -> ServerProcess:
        binary, port = embedded.find_valkey(), embedded.choose_port(0, None)
        cluster = ["--cluster-port", str(embedded.choose_port(0, None))] if name == "cluster.conf" else []
        command = [
            str(binary.path), str(DEPLOY / "valkey" / name), "--bind", "127.0.0.1", "--port", str(port),
            "--dir", str(folder), *cluster,
        ]  # fmt: skip
        url = f"redis://127.0.0.1:{port}/0"
        return ServerProcess(embedded.Server(binary.name, binary.version, url, port, command), folder)

    with running(server) as process:
        yield process.url


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    with deployed_nats() as nats, deployed_valkey("single.conf") as valkey:
        yield nats, valkey


@pytest.fixture
async def penstock(urls: tuple[str, str]) -> AsyncIterator[RunningPenstock]:
    async with RunningPenstock.open(*urls) as house:
        yield house


@pytest.fixture
async def gateway(penstock: RunningPenstock, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_of(penstock, tmp_path, link_rate="0.1", timeout_ms="500") as gateway:
        yield gateway


async def scraped(house: RunningPenstock, gateway: Gateway | None = None) -> dict[str, list[Metric]]:
    """Return what each process's /metrics has, as Prometheus reads it."""

    def read(url: str) -> str:
        with urllib.request.urlopen(url, timeout=WAIT_S) as page:
            return page.read().decode()

    urls = {name: service.metrics_url for name, service in house.services.items()}
    if gateway is not None:
        urls[GATEWAY] = gateway.metrics_url
    texts = {name: await asyncio.to_thread(read, url) for name, url in urls.items()}
    return {name: list(text_string_to_metric_families(text)) for name, text in texts.items()}


def samples(families: Mapping[str, list[Metric]]) -> dict[str, list[dict[str, str]]]:
    """Return the label sets of each metric, over all services."""
    found: dict[str, list[dict[str, str]]] = {}
    for each in families.values():
        for family in each:
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


def value(families: Mapping[str, list[Metric]], name: str, **labels: str) -> float | None:
    """Return the sum of the samples with these labels; None if there are none."""
    values = [
        sample.value
        for each in families.values()
        for family in each
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values) if values else None


async def all_kinds_of_work(house: RunningPenstock) -> None:
    """Let executions meet every end, in two lanes, beside a dead letter and a canceled one that does not stop."""
    for _ in range(3):
        await house.create()
    done, failed, lost = await house.take(3, start=True)
    await house.request("lease.complete", fence(done))
    await house.request("lease.fail", {**fence(failed), "reason": "r", "category": "c", "retryable": False})
    await house.loses_its_lease(lost["execution_id"])
    await house.request("execution.cancel", {"execution_id": lost["execution_id"]})
    retried = await house.create(max_attempts=2, backoff={"kind": "fixed", "delay_ms": 3_600_000})
    task = await house.begin()
    await house.request("lease.fail", {**fence(task), "reason": "r", "category": "c"})
    await house.reaches(retried, "retry_wait")

    await house.create(lane="mail")
    await house.create()
    stuck = (await house.begin())["execution_id"]
    await house.request("execution.cancel", {"execution_id": stuck, "grace_ms": 60_000})
    await house.refused("execution.get", {"execution_id": NOWHERE})
    await house.js.publish(f"{house.root}.observation.nothing", b"no observation")


async def all_kinds_of_requests(house: RunningPenstock, gateway: Gateway) -> None:
    """Let the gateway answer, refuse and wait in vain, and let event streams begin and end."""
    assert (await gateway.ask("lane.list", {})).status_code == 200
    assert (await gateway.ask("execution.get", {"execution_id": NOWHERE})).status_code == 404
    assert (await gateway.ask("no.verb", {})).status_code == 404
    for status in (200, 429):
        assert (await gateway.http.get("/v1/signals/x/y")).status_code == status
    async with gateway.events("", "viewer"):
        pass
    await house.services["cancel-reconciler"].stop()
    assert (await gateway.ask("cancel.backlog", {})).status_code == 504
    await house.start_again("cancel-reconciler")


async def test_the_gateway_counts_what_it_answers_refuses_and_waits_for(
    penstock: RunningPenstock, gateway: Gateway
) -> None:
    await all_kinds_of_requests(penstock, gateway)

    async def told() -> dict[str, float | None]:
        families = {GATEWAY: (await scraped(penstock, gateway))[GATEWAY]}
        names = {
            "requests_total": ("operation", "status"),
            "rate_limited_total": ("limit",),
            "unanswered_total": ("service",),
            "event_streams_ended_total": ("reason",),
            "event_streams": (),
        }
        return {
            " ".join([name, *(sample.labels[label] for label in labels)]): sample.value
            for name, labels in names.items()
            for family in families[GATEWAY]
            for sample in family.samples
            if sample.name == f"penstock_gateway_{name}"
        }

    async with gateway.events("", "operator"):
        assert await penstock.until(
            told, lambda seen: seen["event_streams"] == 1, "the end of the first stream"
        ) == {
            "requests_total lane.list 200": 1,
            "requests_total execution.get 404": 1,
            "requests_total unknown 404": 1,
            "requests_total signal.page 200": 1,
            "requests_total signal.page 429": 1,
            "requests_total events 200": 1,
            "requests_total cancel.backlog 504": 1,
            "rate_limited_total token": 0,
            "rate_limited_total link": 1,
            "rate_limited_total streams": 0,
            "unanswered_total cancel-reconciler": 1,
            "event_streams_ended_total left": 1,
            "event_streams": 1,
        }
        page = await gateway.http.get(gateway.metrics_url.replace("/metrics", "/readyz"))
        assert page.json() == {"ready": True, "missing": []}


async def looked(house: RunningPenstock, gateway: Gateway | None = None) -> dict[str, list[Metric]]:
    """Scrape until everything that happened is in the metrics: leaders look once a sweep, the relay lingers."""

    def complete(families: dict[str, list[Metric]]) -> bool:
        return (
            value(families, "penstock_lane_executions", lane="default", state="running") == 1
            and value(families, "penstock_lane_executions", lane="mail", state="ready") == 1
            and value(families, "penstock_cancel_backlog_items", entity="execution") == 1
            and value(families, "penstock_stream_messages_total", outcome="dead") == 1
            and value(families, "penstock_audit_events_total", event="cancel_requested") == 1
            and value(families, "penstock_audit_outbox_entries") == 0
        )

    return await house.until(lambda: scraped(house, gateway), complete, "the metrics of what happened")


async def test_what_alerts_and_panels_ask_for_is_there(penstock: RunningPenstock, gateway: Gateway) -> None:
    await all_kinds_of_work(penstock)
    await all_kinds_of_requests(penstock, gateway)
    families = await looked(penstock, gateway)
    told = samples(families)
    # What only a process of its own tells: memory, CPU. Prometheus itself adds job and instance.
    whole = Metrics("scheduler", "one", "0", whole_process=True).exposition().decode()
    for name, labels in samples({"": list(text_string_to_metric_families(whole))}).items():
        told.setdefault(name, labels)
    asked = [each for place, text in expressions() for each in selectors(place, text)]
    assert len({each.metric for each in asked}) > 15
    for each in asked:
        found = told.get(each.metric)
        assert found, f"{each.place}: there is no metric {each.metric}"
        for labels in found:
            missing = each.labels - labels.keys() - {"job", "instance"}
            assert not missing, f"{each.place}: {each.metric} has no label {missing}"
        for label, wanted in each.values:
            values = {labels[label] for labels in found} | (CLASSES if label == "outcome" else set())
            assert wanted in values, f"{each.place}: {each.metric} is never {label}={wanted}"


async def test_metrics_follow_prometheus_conventions_and_are_documented(
    penstock: RunningPenstock, gateway: Gateway
) -> None:
    await all_kinds_of_work(penstock)
    await all_kinds_of_requests(penstock, gateway)
    families = await looked(penstock, gateway)
    assert families.keys() == SERVICES | {GATEWAY}
    documented = set(re.findall(r"^\| `(penstock_\w+)`", OPERATIONS.read_text(), re.MULTILINE))
    names = set[str]()
    for service, each in families.items():
        for family in each:
            if family.name.startswith(("process_", "python_")):  # Prometheus' own, of a whole process
                continue
            assert re.fullmatch(r"penstock_[a-z_]+", family.name) and family.documentation
            assert "_ms" not in family.name and "milliseconds" not in family.name  # seconds are the base unit
            names.add(family.name + ("_total" if family.type == "counter" else ""))
            for sample in family.samples:
                assert sample.labels["component"] == service
                assert "execution_id" not in sample.labels and "worker_id" not in sample.labels
    assert documented == names


async def test_promtool_has_nothing_to_say(penstock: RunningPenstock) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on this machine")
    await penstock.create()
    for service in penstock.services.values():
        done = await asyncio.to_thread(
            subprocess.run,
            [promtool, "check", "metrics"],
            input=service.metrics.exposition(),
            capture_output=True,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr.decode()


async def test_lanes_and_the_cancel_backlog_tell_how_much_and_how_long(penstock: RunningPenstock) -> None:
    old = await penstock.create(lane="mail")
    stuck = await penstock.create()
    await penstock.begin(lanes=["default"], lease_ttl_ms=600_000)
    await penstock.request("execution.cancel", {"execution_id": stuck, "grace_ms": 3_600_000})
    await penstock.request("lane.pause", {"lane": "mail"})
    penstock.move_clock(120_000)

    def told(families: dict[str, list[Metric]]) -> bool:
        return (
            (value(families, "penstock_lane_oldest_ready_age_seconds", lane="mail") or 0) >= 120
            and value(families, "penstock_lane_oldest_ready_age_seconds", lane="default") == 0
            and value(families, "penstock_lane_paused", lane="mail") == 1
            and value(families, "penstock_lane_paused", lane="default") == 0
            and (value(families, "penstock_cancel_backlog_age_seconds") or 0) >= 120
        )

    await penstock.until(lambda: scraped(penstock), told, "ages")
    assert (await penstock.get(old))["state"] == "ready"


async def test_there_are_metrics_of_a_hundred_lanes_and_a_sign_that_there_are_more(
    penstock: RunningPenstock,
) -> None:
    names = [f"lane{number:03}" for number in range(102)]
    await penstock.request("execution.create", [{"kind": "t", "lane": name} for name in names])

    def told(families: dict[str, list[Metric]]) -> bool:
        shown = {labels["lane"] for labels in samples(families).get("penstock_lane_executions", ())}
        return shown == set(names[:100]) and value(families, "penstock_lanes_hidden") == 1

    await penstock.until(lambda: scraped(penstock), told, "a hundred lanes")


async def test_only_the_leader_tells_of_lanes(penstock: RunningPenstock) -> None:
    await penstock.create(lane="mail")
    first = penstock.services["scheduler"]
    names = (f"scheduler-{number}" for number in count())
    leading = next(
        each for each in names if owner(frozenset({first.settings.instance, each}), "leader") == each
    )

    def ready(service: Running) -> float | None:
        text = service.metrics.exposition().decode()
        told = {"scheduler": list(text_string_to_metric_families(text))}
        return value(told, "penstock_lane_executions", state="ready")

    async def looks(*services: Running) -> list[float | None]:
        return [ready(service) for service in services]

    await penstock.until(lambda: looks(first), lambda seen: seen == [1.0], "the look of the only one")
    settings = msgspec.structs.replace(penstock.settings, instance=leading)
    second = await start("scheduler", build, settings)
    await penstock.until(lambda: looks(first, second), lambda seen: seen == [None, 1.0], "the leader's look")
    await second.stop()
    await penstock.until(lambda: looks(first), lambda seen: seen == [1.0], "the look of the one that is left")


async def test_the_doctor_agrees_with_the_configuration(
    penstock: RunningPenstock, urls: tuple[str, str]
) -> None:
    checks = [check async for check in doctor.on_valkey(urls[1])]
    checks += [check async for check in doctor.on_streams(penstock.nats, penstock.root)]
    # A machine's Valkey may be one that `doctor` warns of; that is not the configuration's doing.
    assert [check for check in checks if check.ok is not True and check.name != "Valkey"] == []
    assert penstock.nats.max_payload == embedded.MAX_PAYLOAD


async def test_valkey_takes_the_configuration_of_a_cluster_node() -> None:
    with deployed_valkey("cluster.conf") as url:
        client: Any = Redis.from_url(url, protocol=2)
        assert (await client.info("cluster"))["cluster_enabled"] == 1
        told = await client.config_get("appendfsync", "maxmemory-policy", "min-replicas-to-write")
        await client.aclose()
    assert told == {"appendfsync": "always", "maxmemory-policy": "noeviction", "min-replicas-to-write": "1"}

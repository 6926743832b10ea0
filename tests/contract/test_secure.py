"""A secured deployment (`penstock up --secure`): each role can do its work, and nothing else."""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError
from redis import exceptions as redis_errors
from redis.asyncio import Redis

import commands
import matching_subjects
from penstock import Client, PenstockError, Suspend, Task, Worker
from penstock.audit import stream as audit_stream
from penstock.bus.connection import Connection, connect
from penstock.bus.identity import Identity
from penstock.secure import certificates, roles, services
from penstock.secure.folder import Folder
from penstock.secure.roles import ROLES
from penstock.verbs import SERVICES, VERBS
from penstock_gateway.tokens import add
from running_penstock import NOWHERE, fence

WAIT_S = 60.0
ROOT = "penstock"
OTHER_CA = certificates.authority("another").certificate
asked: list[Any] = []
"""The waitpoints that the handler of `job.ask` has made."""


class Secured:
    """One secured `penstock up`, and its users: one named as each role is, and two workers that are bound to lanes."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = Folder(folder)
        self.facts = facts
        self.url: str = facts["nats_url"]
        self.valkey_url: str = facts["valkey_url"]

    def user(self, name: str) -> Identity:
        return next(user for user in self.folder.users() if user.name == name)

    def file(self, name: str) -> str:
        return str(self.folder.user_file(name))

    @asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[Client]:
        async with await Client.connect(self.url, self.file(name)) as client:
            yield client

    @asynccontextmanager
    async def probe(self, name: str) -> AsyncIterator["Probe"]:
        identity = self.folder.service(name) if name in SERVICES else self.user(name)
        probe = Probe(identity)
        await probe.nats.connect(self.url, error_cb=probe.note, allow_reconnect=False, **identity.login())
        try:
            yield probe
        finally:
            await probe.nats.close()

    def valkey(self, user: str | None) -> Any:
        url = f"{self.valkey_url}?ssl_ca_certs={self.folder.authority}"
        return Redis.from_url(self.folder.valkey_login(self.valkey_url, user) if user else url, protocol=2)

    @asynccontextmanager
    async def http(self) -> AsyncIterator[tuple[dict[str, str], dict[str, str], Any]]:
        """Yield the headers of an operator and of a worker at the gateway, and a function that sends a verb."""
        gateway = self.facts["gateway"]
        tokens = Path(gateway["token_file"])
        operator, worker = await asyncio.to_thread(tokens.read_text), tokens.with_name("worker.token")
        if not worker.exists():
            token = await asyncio.to_thread(add, tokens.with_name("gateway.tokens"), "http-worker", "worker")
            await asyncio.to_thread(worker.write_text, token)
        headers = [{"Authorization": f"Bearer {token.strip()}"} for token in (operator, worker.read_text())]
        async with httpx.AsyncClient(base_url=gateway["url"], timeout=WAIT_S) as http:

            async def post(who: dict[str, str], verb: str, body: Any, status: int = 200) -> Any:
                answer = await http.post(f"/v1/{verb.replace('.', '/')}", json=body, headers=who)
                assert answer.status_code == status, answer.text
                return answer.json()

            async def known() -> bool:
                probe = await http.post("/v1/lane/list", json={}, headers=headers[1])
                return probe.status_code == 403  # 401 until the file is read again

            await until(known, bool)
            yield headers[0], headers[1], post

    @asynccontextmanager
    async def working(self, name: str, *lanes: str) -> AsyncIterator[Worker]:
        worker = Worker(self.url, lanes=lanes, credentials=self.file(name), park=1)
        worker.handler("job.double")(double)
        worker.handler("job.ask")(ask)
        worker.handler("job.long")(long)
        running = asyncio.create_task(worker.run(handle_signals=False))
        try:
            await asyncio.wait_for(worker.ready.wait(), WAIT_S)
            yield worker
        finally:
            worker.stop()
            worker.stop()
            await running


class Probe:
    """A connection that tells which publishes and subscriptions the server refuses."""

    def __init__(self, identity: Identity) -> None:
        self.nats = Connection(identity)
        self.refusals: list[str] = []

    async def note(self, error: Exception) -> None:
        self.refusals.append(str(error).lower())

    async def refused(self) -> list[str]:
        """Return what was refused since the last call: the server says so before it answers a ping."""
        await self.nats.flush()
        refusals, self.refusals = self.refusals, []
        return refusals

    async def may_publish(self, subject: str, body: bytes = b"", reply: str = "") -> bool:
        await self.nats.publish(subject, body, reply)
        return not await self.refused()

    async def may_hear(self, subject: str) -> bool:
        subscription = await self.nats.subscribe(subject)
        allowed = not await self.refused()
        if allowed:
            await subscription.unsubscribe()
        return allowed

    async def ask(self, subject: str, request: Any) -> dict[str, Any]:
        reply = await self.nats.request(subject, msgspec.json.encode(request), timeout=WAIT_S)
        return msgspec.json.decode(reply.data)


async def double(task: Task, number: int) -> int:
    return 2 * number


async def ask(task: Task) -> list[str]:
    if not task.resumed:
        waitpoint = await task.create_waitpoint("answer")
        asked.append(waitpoint)
        raise Suspend("go", waitpoint=waitpoint)
    return [signal.name for signal in await task.resumed_by()]


async def long(task: Task) -> None:
    await asyncio.sleep(WAIT_S)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    users = [f"--{role}={role}" for role in ROLES if role not in ("worker", "publisher")]
    users += [
        "--publisher=publisher=ci.>,cd.>",
        "--stream=CD=cd.>",
        "--worker=worker",
        "--worker=mail=bulk,mail",
        "--worker=other=other",
    ]
    subprocess.run(
        [*commands.COMMAND, "secure", "files", *users],
        cwd=folder,
        env=commands.clean_environment(),
        check=True,
    )
    ready = folder / "ready.json"
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [*commands.COMMAND, "up", "--secure", "files", "--ready-file", ready],
            cwd=folder, stdout=log, stderr=log, env=commands.clean_environment(),
        )  # fmt: skip
    try:
        deadline = time.monotonic() + commands.WAIT_S
        while not ready.exists():
            assert up.poll() is None and time.monotonic() < deadline, (folder / "up.log").read_text()
            time.sleep(0.05)
        yield Secured(folder / "files", json.loads(ready.read_text()))
    finally:
        up.terminate()
        up.wait(commands.WAIT_S)


# -- the work of each role ------------------------------------------------------------------------


async def test_work_goes_from_a_submitter_to_a_worker_and_back(secured: Secured) -> None:
    async with secured.working("mail", "mail"), secured.client("submitter") as client:
        run = await client.submit("job.double", {"number": 21}, lane="mail")
        assert await run.result(timeout=WAIT_S) == 42
        events = {event.event: event.actor async for event in client.history(run.execution_id)}
        assert events["created"] == "user:submitter"
        assert str(events["completed"]).startswith("worker:mail--")


async def test_a_signal_publisher_wakes_what_waits(secured: Secured) -> None:
    asked.clear()
    async with secured.working("worker", "signals"), secured.client("submitter") as client:
        run = await client.submit("job.ask", {}, lane="signals")
        await reaches(client, run.execution_id, "suspended")
        async with secured.client("signal-publisher") as publisher:
            await publisher.publish_signal(asked[0].waitpoint_id, "go", asked[0].token)
            assert await run.result(timeout=WAIT_S) == ["go"]
            with pytest.raises(PenstockError, match="invalid_token"):
                await publisher.signal(asked[0].token[:-4] + "AAAA", "go")


async def test_an_observation_publisher_tells_of_steps(secured: Secured) -> None:
    async with secured.client("submitter") as client, secured.client("observation-publisher") as publisher:
        flow = await client.flows.create_mirrored("nightly", completion="all_steps")
        told = publisher.flows.run(flow.flow_id)
        await told.publish_observation("r1", "build", "running")
        await told.observe("r1", "build", "succeeded")
        assert (await flow.wait(WAIT_S)).status == "finished"


async def test_an_event_publisher_wakes_flows(secured: Secured) -> None:
    async with secured.client("submitter") as client, secured.client("event-publisher") as publisher:
        flow = await client.flows.create(
            "hears", members=[{"key": "a", "kind": "job.none", "lane": "nobody"}]
        )
        await flow.start()
        await flow.wait_for_event("shipped", "o-1")
        await publisher.publish_event("shipped", "o-1", {"by": "sea"})
        await until(lambda: flow.get(), lambda found: found.status == "running")
        await flow.cancel("cancel_all")


async def test_operators_are_named_in_the_audit_trail(secured: Secured) -> None:
    async with (
        secured.working("other", "other"),
        secured.client("submitter") as client,
        secured.client("operator") as operator,
        secured.client("auditor") as auditor,
    ):
        run = await client.submit("job.long", {}, lane="other")
        await reaches(client, run.execution_id, "running")
        async with auditor.events(id=run.execution_id) as trail:
            await operator.change_priority(run.execution_id, 7)
            await operator.suspend(run.execution_id, "look at it")
            await operator.resume(run.execution_id)
            await operator.lanes.pause("other", "by hand")
            await operator.cancel(run.execution_id, grace_ms=0)
            found = {}
            while "canceled" not in found:
                event = await trail.next(WAIT_S)
                found[event.event] = event.actor
        named = {event for event, actor in found.items() if actor == "user:operator"}
        assert {"priority_changed", "suspended", "resumed", "canceled"} <= named
        await operator.lanes.resume("other", "by hand")
        stored = await until(lambda: lane_events(auditor), lambda found: len(found) == 2)
        assert [event["actor"] for event in stored] == ["user:operator", "user:operator"]
        assert not (await audit_stream.verify(auditor.nats, "PENSTOCK_AUDIT")).problems


async def test_a_viewer_sees_all_and_changes_nothing(secured: Secured) -> None:
    async with secured.client("submitter") as client:
        run = await client.submit("job.none", {}, lane="nobody")
    async with secured.client("viewer") as viewer:
        assert (await viewer.get(run.execution_id)).state == "ready"
        assert run.execution_id in [record.execution_id async for record in viewer.list(lane="nobody")]
        with pytest.raises(PenstockError, match="waitpoint_not_found"):
            await anext(viewer.waitpoints.signals(NOWHERE))
        for change in (
            viewer.cancel(run.execution_id),
            viewer.run_now(run.execution_id),
            viewer.lanes.pause("nobody"),
        ):
            with pytest.raises(PenstockError, match="not_permitted: NATS does not let this user"):
                await change


async def test_the_commands_find_the_login_of_an_operator(secured: Secured) -> None:
    """In the directory of the secured `penstock up`; doctor looks at Valkey too."""
    doctor = await commands.penstock("doctor", "--json", cwd=secured.folder.path.parent)
    assert doctor.code == 0, doctor.out
    checks = {check["name"]: check for check in doctor.json["checks"]}
    assert {"Valkey", "Lua library", "PENSTOCK_AUDIT"} <= checks.keys()
    assert "ermission" not in doctor.err  # what an operator may not ask is said in words, and not tried
    assert "role operator may not ask" in checks["streams store messages"]["advice"]
    assert checks["state rewound"]["found"] == "not looked at"


async def test_a_worker_that_is_none_ends(secured: Secured) -> None:
    worker = Worker(secured.url, credentials=secured.file("viewer"))
    worker.handler("job.double")(double)
    with pytest.raises(PenstockError, match="not_permitted"):
        await asyncio.wait_for(worker.run(handle_signals=False), WAIT_S)


async def test_triggers_follow_publishers_and_streams(secured: Secured) -> None:
    """The mirror-observer follows what publishers may publish, and asks the scheduler in its own name."""
    admin = await connect(secured.url, "test", str(secured.folder.nats_admin))
    await admin.jetstream().add_stream(name="CD", subjects=["cd.>"])
    await admin.close()
    async with secured.client("operator") as operator, secured.client("publisher") as publisher:
        starts = {"kind": "job.none", "lane": "nobody"}
        await operator.triggers.put({"name": "live", "subject": "ci.*", "execution": starts})
        await operator.triggers.put({"name": "kept", "subject": "cd.>", "stream": "CD", "execution": starts})
        async with operator.events(entity="execution", event="created") as events:
            await publisher.nats.jetstream().publish("cd.deploy", b"{}")
            assert (await events.next(WAIT_S)).actor == "user:mirror-observer"
            # Core NATS keeps nothing for a follower that is a moment late: publish until it has heard.
            event = None
            while event is None:
                await publisher.nats.publish("ci.build", b"{}")
                with contextlib.suppress(TimeoutError):
                    event = await events.next(0.2)
            assert event.actor == "user:mirror-observer"


# -- over HTTP ------------------------------------------------------------------------------------


async def test_a_worker_over_http_takes_work_waits_for_a_signal_and_ends_it(secured: Secured) -> None:
    """Each request is the bearer's, and bounded by the bearer's role; to NATS all are the gateway's user."""
    async with secured.http() as (operator, worker, post):
        made = await post(operator, "execution.create", {"kind": "http.job", "lane": "http", "input": 7})
        asks = {"worker_id": "gateway--w1", "lanes": ["http"], "max": 1, "start": True, "wait_ms": 20_000}
        await post(worker, "worker.register", {"worker_id": "gateway--w1", "lanes": ["http"]})
        [task] = (await post(worker, "work.next", asks))["tasks"]
        assert (task["execution_id"], task["input"]) == (made["execution_id"], 7)
        await post(worker, "lease.renew", fence(task))
        waits = await post(worker, "lease.suspend", {**fence(task), "condition": {"name": "yes"}})
        link = f"{secured.facts['gateway']['url']}/v1/signals/{waits['token']}/yes"
        async with httpx.AsyncClient(timeout=WAIT_S) as anybody:
            assert (await anybody.post(link)).json()["effect"] == "resumed"
        [again] = (await post(worker, "work.next", asks))["tasks"]
        assert again["resumed"]
        await post(worker, "lease.complete", {**fence(again), "result": "done"})
        record = await post(operator, "execution.wait", {"execution_id": made["execution_id"]})
        assert (record["state"], record["result"]) == ("completed", "done")
        history = await post(operator, "execution.history", {"execution_id": made["execution_id"]})
        actors = {event["event"]: event["actor"] for event in history["items"]}
        assert actors["created"] == "user:gateway" and actors["completed"] == "worker:gateway--w1"
        # A worker's id begins with the name of the gateway's user.
        foreign = await post(worker, "work.next", {**asks, "worker_id": "mail--1"}, 403)
        assert foreign["error"]["detail"] == {"field": "worker_id"}
        refused = await post(operator, "lease.complete", fence(again), 403)
        assert refused["error"]["code"] == "not_permitted"


async def test_events_over_http_begin_where_a_client_was(secured: Secured) -> None:
    async with secured.http() as (operator, _, post):
        made = await post(operator, "execution.create", {"kind": "job.none", "lane": "nobody"})
        url = f"{secured.facts['gateway']['url']}/v1/events"

        async def first(after: int) -> tuple[int, dict[str, Any]]:
            headers = {**operator, "Last-Event-ID": str(after)}
            async with (
                httpx.AsyncClient(timeout=WAIT_S) as http,
                http.stream("GET", f"{url}?id={made['execution_id']}", headers=headers) as answer,
            ):
                assert answer.status_code == 200, await answer.aread()
                seq = after
                async for line in answer.aiter_lines():
                    if line.startswith("id: "):
                        seq = int(line.removeprefix("id: "))
                    elif line.startswith("data: "):
                        return seq, json.loads(line.removeprefix("data: "))
            raise AssertionError("the stream has ended")

        seq, created = await first(0)
        assert (created["event"], created["actor"]) == ("created", "user:gateway")
        await post(operator, "execution.cancel", {"execution_id": made["execution_id"]})
        later, canceled = await first(seq)
        assert (canceled["event"], later > seq) == ("canceled", True)


# -- and nothing else -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ROLES, "mail"])
async def test_the_server_enforces_the_table(secured: Secured, name: str) -> None:
    """Of all subjects that anybody may use, a user gets those of its role."""
    everybody = [roles.subjects_of(user, ROOT) for user in secured.folder.users()]
    everybody += [services.subjects_of(secured.folder.service(service), ROOT) for service in SERVICES]
    own = roles.subjects_of(secured.user(name), ROOT)
    async with secured.probe(name) as probe:
        for subject in sorted({literal(each) for allowed in everybody for each in allowed.publish}):
            if not matching_subjects.allow(own.publish, subject):
                assert not await probe.may_publish(subject), subject
        for subject in own.publish:
            if subject.startswith(f"{ROOT}.v1."):
                assert await probe.may_publish(literal(subject)), subject
        for subject in sorted({each for allowed in everybody for each in allowed.subscribe}):
            assert await probe.may_hear(subject) == matching_subjects.allow(own.subscribe, subject), subject


@pytest.mark.parametrize("name", [*ROLES, "scheduler"])
async def test_nobody_hears_anothers_replies(secured: Secured, name: str) -> None:
    async with secured.probe(name) as probe:
        for subject in ("_INBOX.>", "_INBOX.*.>", ">", "*.*.*", "_INBOX.operator2.>", "_INBOX.mail.1"):
            assert not await probe.may_hear(subject), subject
        assert await probe.may_hear(f"_INBOX.{name}.>")


async def test_nobody_sends_a_reply_to_somebody_else(secured: Secured) -> None:
    async with secured.probe("operator") as victim, secured.probe("submitter") as probe:
        heard = await victim.nats.subscribe("_INBOX.operator.>")
        await victim.nats.flush()
        subject = f"{VERBS['execution.get'].subject(ROOT)}.as.submitter"
        await probe.may_publish(subject, b"{}", "_INBOX.operator.mine")
        answer = await probe.ask(subject, {})  # the same service has seen the one before by now
        assert answer["error"]["code"] == "invalid_request"
        await victim.nats.flush()
        assert heard.pending_msgs == 0


async def test_a_worker_takes_no_other_lane(secured: Secured) -> None:
    asks = {"worker_id": "mail--1", "lanes": ["other"], "wait_ms": 0}
    base = VERBS["work.next"].subject(ROOT)
    async with secured.probe("mail") as probe:
        own = f"{base}.as.mail.bulk+mail"
        refused = await probe.ask(own, asks)
        assert refused["error"]["code"] == "not_permitted" and refused["error"]["detail"]["lanes"] == [
            "other"
        ]
        assert "tasks" in await probe.ask(own, {**asks, "lanes": ["mail", "bulk"]})
        foreign = await probe.ask(own, {**asks, "lanes": ["mail"], "worker_id": "other--1"})
        assert foreign["error"]["detail"] == {"field": "worker_id"}
        for subject in (
            base,
            f"{base}.as.mail",
            f"{base}.as.mail.other",
            f"{base}.as.other.other",
            f"{base}.as.worker",
        ):
            assert not await probe.may_publish(subject), subject
        granted = await probe.ask(
            f"{VERBS['work.grant'].subject(ROOT)}.as.mail.bulk+mail", asks | {"wait_ms": None}
        )
        assert "error" in granted
    worker = Worker(secured.url, lanes=["other"], credentials=secured.file("mail"))
    worker.handler("job.double")(double)
    with pytest.raises(PenstockError, match=r"not_permitted.*bulk, mail"):
        await asyncio.wait_for(worker.run(handle_signals=False), WAIT_S)


async def test_a_worker_hears_of_no_other_workers_leases(secured: Secured) -> None:
    async with secured.probe("mail") as probe:
        assert await probe.may_hear(f"{ROOT}.worker.mail.mail--1")
        for subject in (f"{ROOT}.worker.>", f"{ROOT}.worker.*.*", f"{ROOT}.worker.other.other--1"):
            assert not await probe.may_hear(subject), subject


async def test_who_has_no_login_gets_nowhere(secured: Secured) -> None:
    stranger = Identity(name="x", role="viewer", nkey_seed=secured.user("viewer").nkey_seed, ca=OTHER_CA)
    with pytest.raises(ssl.SSLCertVerificationError):
        await Nats().connect(secured.url, allow_reconnect=False, **stranger.login())
    trust = secured.user("viewer").trust()
    with pytest.raises(NatsError, match=r"(?i)authorization violation"):
        await Nats().connect(secured.url, tls=trust, allow_reconnect=False)
    with pytest.raises(redis_errors.AuthenticationError):
        await secured.valkey(None).ping()
    with pytest.raises(redis_errors.ConnectionError):
        await Redis.from_url(secured.valkey_url.replace("rediss", "redis")).ping()
    with pytest.raises(redis_errors.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await Redis.from_url(secured.valkey_url).ping()


async def test_a_server_without_tls_is_not_spoken_to(secured: Secured, nats_url: str) -> None:
    """Somebody between could say that the server needs no TLS: then the client does not log in."""
    with pytest.raises(PenstockError, match="offers no TLS"):
        await connect(nats_url, "test", secured.file("viewer"), timeout=1.0)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_has_its_function_and_its_keys(secured: Secured, service: str) -> None:
    client = secured.valkey(service)
    key = f"{ROOT}:{{0}}"
    header = msgspec.msgpack.encode({"nonce": "test"})
    ping = msgspec.msgpack.encode(["ping", {}])
    own = f"penstock_{service.replace('-', '_')}"
    assert len(await client.fcall(own, 1, key, header, ping)) == 2
    other = "penstock_scheduler" if service != "scheduler" else "penstock_audit_relay"
    for command in (
        ("FCALL", other, 1, key, header, ping),
        ("FCALL", own, 1, "foreign:{0}", header, ping),
        ("GET", "foreign"),
        ("KEYS", "*"), ("SCAN", 0), ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("ACL", "LIST"),
        ("EVAL", "return 1", 0), ("FUNCTION", "DELETE", "penstock"), ("FUNCTION", "FLUSH"), ("MONITOR",), ("SHUTDOWN",),
        ("REPLICAOF", "NO", "ONE"), ("CLIENT", "LIST"), ("BLPOP", f"{key}:x", 1), ("SUBSCRIBE", "x"), ("SWAPDB", 0, 1),
    ):  # fmt: skip
        with pytest.raises(redis_errors.NoPermissionError):
            pytest.fail(f"{command} answered {await client.execute_command(*command)!r}")
    await client.aclose()


async def test_a_killed_valkey_comes_back_with_everything(secured: Secured) -> None:
    """Valkey reads its append-only file as the user `default`: were that one without rights, all would be gone."""
    async with secured.client("submitter") as client, secured.client("viewer") as viewer:
        runs = [await client.submit("job.none", {}, lane="nobody") for _ in range(5)]
        os.kill(secured.facts["server_pids"]["valkey-server"], signal.SIGKILL)
        for run in runs:
            record = await until(
                lambda run=run: patiently(viewer.get(run.execution_id)), lambda found: found is not None
            )
            assert record.state == "ready"


# -- helpers --------------------------------------------------------------------------------------


def literal(subject: str) -> str:
    """Return a subject that a permission covers."""
    return subject.replace("*", "x").replace(">", "x")


async def patiently(look: Any) -> Any:
    """Return None as long as Valkey is away."""
    with contextlib.suppress(PenstockError):
        return await look
    return None


async def until(look: Any, holds: Any) -> Any:
    deadline = time.monotonic() + WAIT_S
    while True:
        found = await look()
        if holds(found):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


async def reaches(client: Client, execution_id: str, state: str) -> None:
    await until(lambda: client.get(execution_id), lambda record: record.state == state)


async def lane_events(auditor: Client) -> list[dict[str, Any]]:
    """Return the stored events of the lane `other`."""
    last = (await auditor.nats.jetstream().stream_info("PENSTOCK_AUDIT")).state.last_seq
    pages = audit_stream.pages(auditor.nats, "PENSTOCK_AUDIT", 1, last)
    events = [msgspec.json.decode(body) async for page in pages for _, body in page]
    return [event for event in events if (event["entity"], event["id"]) == ("lane", "other")]

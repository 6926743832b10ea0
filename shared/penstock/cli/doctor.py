"""`penstock doctor`: check everything that Penstock needs, and advise what to do where something is missing."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError, ServiceUnavailableError
from rich.markup import escape

from penstock import __version__, versions
from penstock.audit import room
from penstock.bus.connection import connect, identity_of
from penstock.bus.discovery import MISSING
from penstock.bus.streams import AUDIT, DEAD, EVENTS_IN, OBSERVATIONS, SIGNALS, stream_name, write_error
from penstock.cli.audit_rewound import last_rewind
from penstock.cli.output import clock, emit_json, listing
from penstock.cli.problems import Problem
from penstock.cli.shell import Shell, ShellArgument
from penstock.cli.valkey import PasswordFile, ValkeyUrl, login
from penstock.client import AuditEvent
from penstock.errors import PenstockError
from penstock.secure.roles import PERMISSIONS, ROLES
from penstock.urls import redact
from penstock.verbs import SERVICES

PING_S: Final = 2.0
SKEW_MS: Final = 500
LAX: Final = {
    "everysec": "appendfsync always, unless a power cut, or a kill on a slow disk, may lose the last second",
    "no": "appendfsync always, unless a power cut may lose the last half a minute",
}
REFUSES: Final = "make room on nats-server's disk, then restart nats-server: until then it refuses messages"
REWOUND_RECENT_MS: Final = 24 * 3_600_000
"""For so long a rewound state counts as a failed check; then it is only told."""


@dataclass(frozen=True)
class Check:
    """One line of the table. `ok` is None if the check could not be made, or found nothing worse than a hint."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


async def doctor(
    *,
    valkey: ValkeyUrl = None,
    valkey_password_file: PasswordFile = None,
    shell: ShellArgument,
) -> None:
    """Check NATS, streams, services and Valkey, and say what to do; exit code 1 when something fails.

    Parameters
    ----------
    valkey
        Valkey's URL; without it, the Valkey of the `penstock up` in this directory is checked, if one runs.
    valkey_password_file
        A file with Valkey's password.
    """
    url = shell.nats_url()
    checks = [check async for check in on_nats(shell, url)]
    where = login(shell, valkey, valkey_password_file)
    if where is None:
        checks.append(Check("Valkey", None, "not looked at", "name it with --valkey redis://…"))
    else:
        checks += [check async for check in on_valkey(where)]
    bad = [check for check in checks if check.ok is False]
    if shell.json:
        emit_json({"ok": not bad, "checks": [vars(check) for check in checks]})
    else:
        marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]·[/]"}
        rows = ((marks[each.ok], each.name, escape(each.found), escape(each.advice)) for each in checks)
        shell.console.print(listing(("", "what", "found", "what to do"), rows))
    if bad:
        raise Problem(f"{len(bad)} of {len(checks)} checks failed")


async def on_nats(shell: Shell, url: str) -> AsyncIterator[Check]:
    """Make all checks that need only NATS credentials."""
    try:
        nats = await connect(url, "penstock-doctor", shell.login)
    except PenstockError as error:
        yield Check("NATS", False, error.message, "start Penstock (penstock up), or name NATS with --nats")
        return
    try:
        found = nats.connected_server_version
        shown = f"{found.major}.{found.minor}.{found.patch}"
        advice = versions.too_old("nats-server", shown)
        yield Check("NATS", not advice, f"{shown} at {redact(url)}", advice)
        size = nats.max_payload
        small = "let it take more: max_payload: 8MB" if size < 2 * 2**20 else ""
        yield Check("NATS message size", None if small else True, f"{size / 2**20:g} MiB", small)
        async for check in on_streams(nats, shell.root):
            yield check
        async for check in on_services(nats, shell.root):
            yield check
    finally:
        await nats.close()


async def on_streams(nats: Nats, root: str) -> AsyncIterator[Check]:
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    try:
        account = await js.account_info()
        yield Check("JetStream", True, f"on, {account.streams} streams")
    except (NatsError, TimeoutError) as error:
        yield Check(
            "JetStream",
            False,
            "off" if isinstance(error, ServiceUnavailableError) else str(error) or "no answer",
            "switch it on: jetstream {} in nats-server's configuration",
        )
        return
    streams = {
        stream: stream_name(root, stream) for stream in (SIGNALS, OBSERVATIONS, EVENTS_IN, AUDIT, DEAD)
    }
    refusing: dict[str, str | None] = dict.fromkeys(streams)
    identity = identity_of(nats)
    if identity is not None and identity.role in ROLES:
        yield Check(
            "streams store messages",
            None,
            "not looked at",
            f"a user of the role {identity.role} may not ask; services whose stream stores nothing are not ready",
        )
    else:  # at the same time, for each waits its whole time where nobody answers
        errors = await asyncio.gather(*(write_error(nats, name) for name in streams.values()))
        refusing = dict(zip(streams, errors, strict=True))
    for stream, name in streams.items():
        try:
            state = (await js.stream_info(name)).state
        except NotFoundError:
            yield Check(name, False, "missing", "start any service: each creates the streams")
            continue
        if error := refusing[stream]:
            yield Check(name, False, f"stores no messages: {error}", REFUSES)
            continue
        found, advice = f"{state.messages} messages", ""
        if stream == DEAD and state.messages > 0:
            advice = f"look at what could not be applied: nats stream view {name}"
        elif stream == AUDIT and (audit := await room(nats, name)):
            found, advice = f"{found}, {audit.full:.0%} of its bounds", audit.warning()
        yield Check(name, None if advice else True, found, advice)
    yield await on_rewinds(nats, root)


async def on_rewinds(nats: Nats, root: str) -> Check:
    """Check whether Valkey has fallen behind the audit trail: acknowledged changes are then lost."""
    not_looked = Check("state rewound", None, "not looked at", "ask as an auditor")
    identity = identity_of(nats)
    if identity is not None and identity.role in ROLES and AUDIT not in PERMISSIONS[identity.role].read:
        return not_looked
    try:
        told = msgspec.json.decode((await last_rewind(nats, root)).data, type=AuditEvent)
    except NotFoundError:
        return Check("state rewound", True, "never")
    except (NatsError, TimeoutError):
        return not_looked
    recent = time.time() * 1000 - told.at < REWOUND_RECENT_MS
    return Check(
        "state rewound",
        False if recent else None,
        f"{clock(told.at)}: Valkey lost {told.data['events']} events of partition {told.data['partition']}",
        "see what was lost: penstock audit rewound; docs/backup.md says how it comes about",
    )


async def on_services(nats: Nats, root: str) -> AsyncIterator[Check]:
    """Check which services answer a ping of the NATS micro protocol."""
    inbox = nats.new_inbox()
    subscription = await nats.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]
    for service in SERVICES:
        await nats.publish(f"$SRV.PING.{root}-{service}", b"", reply=inbox)
    answers: dict[str, list[dict[str, Any]]] = {f"{root}-{service}": [] for service in SERVICES}
    deadline = time.monotonic() + PING_S
    quiet = 0.25  # once each service has answered, wait this long for more instances
    while (left := deadline - time.monotonic()) > 0:
        try:
            message = await subscription.next_msg(quiet if all(answers.values()) else left)
        except TimeoutError:
            break
        pong: dict[str, Any] = msgspec.json.decode(message.data) if message.data else {}
        if pong.get("name") in answers:
            answers[pong["name"]].append(pong)
    for service, pongs in zip(SERVICES, answers.values(), strict=True):
        if not pongs:
            yield Check(service, False, "no answer", f"start it: penstock-{service}, or penstock up")
            continue
        if missing := sorted({pong.get("metadata", {}).get(MISSING, "") for pong in pongs} - {""}):
            yield Check(service, False, f"not ready: {'; '.join(missing)}", "its log says why")
            continue
        versions = sorted({str(pong["version"]) for pong in pongs})
        others = [version for version in versions if version != __version__]
        advice = f"this command is {__version__}: update the older of both" if others else ""
        count = f"{len(pongs)} instance{'' if len(pongs) == 1 else 's'}"
        yield Check(service, None if others else True, f"{count}, version {', '.join(versions)}", advice)


async def on_valkey(url: str) -> AsyncIterator[Check]:
    """Check Valkey itself, which only operators and services can usually reach."""
    try:
        from redis import exceptions
        from redis.asyncio import Redis
    except ImportError:
        yield Check("Valkey", None, "not looked at", "pip install 'penstock[services]'")
        return
    if "+" in url.partition("://")[0]:
        from penstock.cli.doctor_nodes import on_nodes

        async for check in on_nodes(url):
            yield check
        return
    connect_to = cast(Any, Redis).from_url
    client = connect_to(
        url.replace("valkey", "redis", 1) if url.startswith("valkey") else url,
        socket_timeout=5,
        socket_connect_timeout=5,
        protocol=2,
    )
    try:
        async for check in on_one_valkey(client, url):
            yield check
    except (exceptions.RedisError, OSError) as error:
        yield Check(
            "Valkey", False, f"{redact(url)}: {error}", "start it (penstock up), or name it with --valkey"
        )
    finally:
        await client.aclose()


async def on_one_valkey(client: Any, url: str, clustered: bool = False) -> AsyncIterator[Check]:
    """Check one server. clustered: whether it is to belong to a cluster."""
    from penstock.runtime.server_check import unfit_valkey

    info = {name: str(value) for name, value in cast("dict[str, Any]", await client.info()).items()}
    name, version = versions.of(info)
    unfit = unfit_valkey(info, clustered)
    holes = versions.known_holes(name, version)
    shown = f"{version} at {redact(url)}" + ("" if name == "Valkey" else f" ({name})")
    yield Check("Valkey", False if unfit else None if holes else True, shown, unfit or holes)

    async def setting(name: str) -> str:
        return cast("dict[str, str]", await client.config_get(name)).get(name, "unknown")

    before = time.time()
    seconds, micros = cast("tuple[int, int]", await client.time())
    skew = round((seconds + micros / 1e6 - (before + time.time()) / 2) * 1000)
    far = "set this machine's clock (NTP); Penstock goes by Valkey's" if abs(skew) > SKEW_MS else ""
    yield Check("clock skew", None if far else True, f"{skew} ms", far)
    appendonly = (await setting("appendonly")) == "yes"
    fsync = await setting("appendfsync")
    lax = LAX.get(fsync, "")
    yield Check(
        "Valkey appendonly",
        appendonly,
        "yes" if appendonly else "no",
        "" if appendonly else "set appendonly yes: without it a restart loses everything",
    )
    yield Check("Valkey appendfsync", None if lax else True, fsync, lax)
    policy = await setting("maxmemory-policy")
    yield Check(
        "Valkey maxmemory-policy",
        policy == "noeviction",
        policy,
        "" if policy == "noeviction" else "set maxmemory-policy noeviction: others throw state away",
    )
    yield await _on_library(client)


async def _on_library(client: Any) -> Check:
    from penstock.store.library import LIBRARY_VERSION, assemble

    listed = await client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", "penstock", "WITHCODE")
    text = repr(listed)
    if "penstock library version=" not in text:
        return Check("Lua library", False, "not loaded", "start any service: it loads the library")
    version, digest = text.split("penstock library version=", 1)[1].split("\\n", 1)[0].split(" digest=")
    if int(version) > LIBRARY_VERSION:
        return Check(
            "Lua library", None, f"version {version}", f"newer than this command ({LIBRARY_VERSION})"
        )
    same = int(version) == LIBRARY_VERSION and digest[:16] == assemble()[1]
    advice = "" if same else "services load theirs when they start; restart them after an update"
    return Check("Lua library", None if advice else True, f"version {version}, {digest[:16]}", advice)

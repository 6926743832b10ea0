"""The settings of a service: one frozen struct, each field set by the variable `PENSTOCK_<NAME>`.

`Settings` is the only list of settings: the parsing of the environment (`variables.py`), `--help` and the docs derive
from it.
"""

import os
import re
import secrets
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from penstock.bus.streams import Bounds
from penstock.ids import TOKEN_PATTERN
from penstock.runtime.addresses import SettingsError, login_of, secret_in, wrong_urls
from penstock.runtime.variables import HIDDEN, SECRET, fields_of, unknown

KEY_CHARS: Final = 32
"""The least length of a signing key in characters: 128 bits if each is a hex digit (four bits)."""
LEAST_AGE_MS: Final = 120_000
"""JetStream asks that messages stay at least as long as their ids are remembered (`streams.DEDUP_WINDOW_S`)."""


def instance_name() -> str:
    """Make a unique name for this process from the host name, the pid and random digits."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of a service. Every field has a default that works on a single machine."""

    nats_url: Annotated[
        str, Meta(min_length=1, description="NATS servers, separated by commas", extra=SECRET)
    ] = "nats://127.0.0.1:4222"
    nats_creds: Annotated[str | None, Meta(description="path of a NATS credentials file")] = None
    valkey_url: Annotated[
        str,
        Meta(
            pattern=r"^((valkey|redis)s?(\+cluster|\+sentinel)?|unix)://",
            description="where Valkey is; also `redis+cluster://host:port,host:port` and"
            " `redis+sentinel://host:port,host:port/name`",
            extra=SECRET,
        ),
    ] = "redis://127.0.0.1:6379/0"
    valkey_password_file: Annotated[
        str | None, Meta(description="path of a file with Valkey's password, instead of one in the URL")
    ] = None
    acknowledged: Annotated[
        str,
        Meta(
            pattern=r"^(process|disk|replicas:[1-9])$",
            description="what Valkey must have done with a change before it is answered: `process`, what its own"
            " configuration says; `disk`, written to disk; `replicas:n`, n replicas have it",
        ),
    ] = "process"
    root: Annotated[
        str,
        Meta(pattern=TOKEN_PATTERN, description="first token of every subject and key: one per deployment"),
    ] = "penstock"
    partitions: Annotated[
        int, Meta(ge=1, le=4096, description="shards of the state, fixed at a deployment's first start")
    ] = 1
    max_payload_bytes: Annotated[
        int, Meta(ge=1024, le=64 * 2**20, description="limit of one input, result, payload or state")
    ] = 2**20
    idempotency_ttl_ms: Annotated[
        int, Meta(ge=1000, description="how long an idempotency key is remembered")
    ] = 24 * 3_600_000
    grant_ttl_ms: Annotated[
        int, Meta(ge=100, description="how long a grant may stay unclaimed before its work goes back")
    ] = 5000
    retention_ms: Annotated[
        int, Meta(ge=1, description="how long finished executions are kept unless they say otherwise")
    ] = 7 * 24 * 3_600_000
    event_ttl_ms: Annotated[
        int,
        Meta(ge=1000, description="how long a published event is kept for flows that begin to wait for it"),
    ] = 3_600_000
    journal_max_entries: Annotated[
        int, Meta(ge=1, le=1_000_000, description="most entries in the journal of a durable function")
    ] = 10_000
    journal_max_bytes: Annotated[
        int, Meta(ge=1024, description="most bytes in the journal of a durable function")
    ] = 64 * 1024 * 1024
    progress_events_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=3_600_000,
            description="an execution's progress makes at most one audit event in so long, the last one always;"
            " 0: each report makes one",
        ),
    ] = 1000
    token_key: Annotated[
        str | None,
        Meta(
            description="what waitpoints' tokens are signed with, 32 characters or more, the same for every"
            " signal-router; not needed with PENSTOCK_DEV",
            extra=HIDDEN,
        ),
    ] = None
    token_key_file: Annotated[str | None, Meta(description="path of a file that holds it instead")] = None
    stream_replicas: Annotated[
        int, Meta(ge=1, le=5, description="copies of each JetStream stream: 1 on one node, 3 on a cluster")
    ] = 1
    audit_max_bytes: Annotated[
        int,
        Meta(
            ge=64 * 2**20,
            description="most bytes of the audit trail, which JetStream reserves; beyond them its oldest events go."
            " An event takes about 600",
        ),
    ] = Bounds.audit_bytes
    audit_max_age_ms: Annotated[int, Meta(ge=LEAST_AGE_MS, description="how long an audit event is kept")] = (
        int(Bounds.audit_age_s * 1000)
    )
    dead_max_bytes: Annotated[
        int, Meta(ge=2**20, description="most bytes of the dead letters; beyond them the oldest go")
    ] = Bounds.dead_bytes
    dead_max_age_ms: Annotated[int, Meta(ge=LEAST_AGE_MS, description="how long a dead letter is kept")] = (
        int(Bounds.dead_age_s * 1000)
    )
    events_max_age_ms: Annotated[
        int,
        Meta(ge=LEAST_AGE_MS, description="how long a published event waits for a signal-router to take it"),
    ] = int(Bounds.events_age_s * 1000)
    reply_prefixes: Annotated[
        str,
        Meta(
            pattern=r"^[^\s$*>,]+(,[^\s$*>,]+)*$|^$",
            description="what reply subjects must begin with, separated by commas, such as `_INBOX.`; empty: any but"
            " the root's own and `$`",
        ),
    ] = ""
    metrics_host: Annotated[str, Meta(min_length=1, description="address of the metrics port")] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: any free one")
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="the least that is logged")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="auto: console on a terminal, JSON lines otherwise"),
    ] = "auto"
    drain_timeout_ms: Annotated[
        int, Meta(ge=0, description="how long SIGTERM lets running requests take to finish")
    ] = 10_000
    sweep_ms: Annotated[
        int, Meta(ge=100, description="how often due work is looked for in case a hint was lost")
    ] = 5000
    dev: Annotated[
        bool, Meta(description="reload the Lua library also when only its text changed, not its version")
    ] = False
    instance: Annotated[
        str, Meta(pattern=TOKEN_PATTERN, description="name of this process; default: host, pid and chance")
    ] = msgspec.field(default_factory=instance_name)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from environment variables.

        Raise one SettingsError that names all wrong variables, and those that begin with PENSTOCK_ and are no setting.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        wrong = unknown(environ, FIELDS)
        for field in FIELDS:
            text = environ.get(field.variable)
            if text is None or not text.strip():
                continue  # in compose files and systemd units, an empty variable means "not set"
            try:
                values[field.name] = field.parse(text.strip())
            except msgspec.ValidationError as error:
                got = "" if field.secret else f" (it is {text.strip()!r})"
                wrong.append(f"{field.variable}: {str(error).removesuffix(', got `str`')}{got}")
        wrong += wrong_urls(values)
        if wrong:
            raise SettingsError("\n".join(wrong))
        return cls(**values)

    def stream_bounds(self) -> Bounds:
        """Return how much the streams keep."""
        return Bounds(
            audit_bytes=self.audit_max_bytes,
            audit_age_s=self.audit_max_age_ms / 1000,
            dead_bytes=self.dead_max_bytes,
            dead_age_s=self.dead_max_age_ms / 1000,
            events_age_s=self.events_max_age_ms / 1000,
        )

    def valkey_login(self) -> str:
        """Return Valkey's URL with the password of `valkey_password_file`. Raise SettingsError if it cannot be read."""
        return login_of(self.valkey_url, self.valkey_password_file)

    def limits(self) -> dict[str, int]:
        """Return the settings that the Lua library needs."""
        return {
            "max_payload_bytes": self.max_payload_bytes,
            "idempotency_ttl_ms": self.idempotency_ttl_ms,
            "grant_ttl_ms": self.grant_ttl_ms,
            "retention_ms": self.retention_ms,
            "progress_events_ms": self.progress_events_ms,
            "event_ttl_ms": self.event_ttl_ms,
            "journal_max_entries": self.journal_max_entries,
            "journal_max_bytes": self.journal_max_bytes,
        }

    def shown(self) -> dict[str, Any]:
        """Return all fields without their secrets, fit for logs."""
        return {field.name: field.shown(getattr(self, field.name)) for field in FIELDS}

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"

    def __rich_repr__(self) -> Any:
        yield from self.shown().items()

    def signing_key(self) -> bytes | None:
        """Return the key that signs tokens. None in dev mode without a key: the deployment then makes its own keys.

        Raise SettingsError if the key is missing, too short or unreadable.
        """
        key, variable = self.token_key, "PENSTOCK_TOKEN_KEY"
        if self.token_key_file is not None:
            if key is not None:
                raise SettingsError("set PENSTOCK_TOKEN_KEY or PENSTOCK_TOKEN_KEY_FILE, not both")
            variable = "PENSTOCK_TOKEN_KEY_FILE"
            key = secret_in(self.token_key_file, variable)
        if key is None:
            if self.dev:
                return None
            raise SettingsError(
                "PENSTOCK_TOKEN_KEY is not set, nor is PENSTOCK_TOKEN_KEY_FILE: give every signal-router the same"
                " 32 characters or more, such as `openssl rand -hex 32` makes"
            )
        if len(key) < KEY_CHARS:
            raise SettingsError(
                f"{variable}: the key has {len(key)} characters; at least {KEY_CHARS} are needed"
            )
        return key.encode()


FIELDS: Final = fields_of(Settings)


def help_text() -> str:
    """Return the settings for `--help`, one paragraph each. It shows defaults only, never current values."""
    lines: list[str] = []
    for field in FIELDS:
        default = f" [{field.default}]" if field.default else ""
        lines.append(f"  {field.variable}{default}\n      {field.description}")
    return "\n".join(lines)


def markdown_table() -> str:
    """Return the settings as a Markdown table, for the docs."""
    rows = [f"| `{field.variable}` | `{field.default or ' '}` | {field.description} |" for field in FIELDS]
    return "\n".join(["| variable | default | what it is |", "| --- | --- | --- |", *rows])

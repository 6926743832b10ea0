"""The gateway's settings: one frozen struct, each field set by an environment variable."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta, Struct

from penstock.environment import GATEWAY, set_by_kubernetes
from penstock.ids import TOKEN_PATTERN

SHARED: Final = ("nats_url", "nats_creds", "root", "ready_file", "metrics_host", "metrics_port")
"""The fields that every process of Penstock has: `PENSTOCK_<NAME>`. The others are `PENSTOCK_GATEWAY_<NAME>`."""


class SettingsError(Exception):
    """A setting is wrong; the message names the variable."""


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of a gateway."""

    nats_url: Annotated[str, Meta(min_length=1, description="NATS servers, separated by commas")] = (
        "nats://127.0.0.1:4222"
    )
    nats_creds: Annotated[str | None, Meta(description="path of an identity or a NATS credentials file")] = (
        None
    )
    root: Annotated[str, Meta(pattern=TOKEN_PATTERN, description="first token of every subject")] = "penstock"
    ready_file: Annotated[str | None, Meta(description="written, as JSON, once the gateway is ready")] = None
    metrics_host: Annotated[str, Meta(min_length=1, description="address of the metrics port")] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: any free one")
    ] = 0
    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0: any free one")] = 8080
    tokens: Annotated[
        str, Meta(min_length=1, description="path of the tokens file (`penstock-gateway token` adds to it)")
    ] = "gateway.tokens"
    max_bytes: Annotated[
        int, Meta(ge=1024, le=64 * 2**20, description="limit of a request's body; NATS' own limit also holds")
    ] = 8 * 2**20
    rate: Annotated[
        float, Meta(gt=0, description="requests per second of each bearer token; twice as many at once")
    ] = 100.0
    link_rate: Annotated[
        float,
        Meta(gt=0, description="requests per second to signal links from one address; twice as many at once"),
    ] = 10.0
    streams: Annotated[int, Meta(ge=1, le=10_000, description="most open event streams of one token")] = 20
    heartbeat_ms: Annotated[int, Meta(ge=10, description="longest silence of an event stream")] = 15_000
    timeout_ms: Annotated[int, Meta(ge=1, description="longest wait for an answer of a service")] = 10_000
    drain_timeout_ms: Annotated[
        int, Meta(ge=0, description="how long running requests may take once the gateway stops")
    ] = 10_000

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings from environment variables; an empty one counts as not set.

        Raise SettingsError for a wrong value, and for a variable that begins with `PENSTOCK_GATEWAY_` and is none.
        """
        environ = os.environ if environ is None else environ
        environ = {name: value for name, value in environ.items() if not set_by_kubernetes(name, value)}
        known = {variable(field) for field in cls.__struct_fields__}
        for name in sorted(environ):  # the services' own settings may stand beside them
            if name.startswith(GATEWAY) and name not in known:
                raise SettingsError(f"{name} is no setting: unset it; --help names all settings")
        given = {name: value for name in cls.__struct_fields__ if (value := environ.get(variable(name), ""))}
        for name, value in given.items():  # one by one, so that the error can name its variable
            try:
                msgspec.convert({name: value}, cls, strict=False)
            except msgspec.ValidationError as error:
                why = str(error).partition(" - at ")[0]
                raise SettingsError(f"{variable(name)}: {why[:1].lower()}{why[1:]}") from None
        return msgspec.convert(given, cls, strict=False)


def variable(field: str) -> str:
    """Return the name of the environment variable that sets a field."""
    return f"{'PENSTOCK_' if field in SHARED else GATEWAY}{field.upper()}"


def rows() -> list[tuple[str, str, str]]:
    """Return each setting's variable, default and description."""
    found: list[tuple[str, str, str]] = []
    for field in msgspec.json.schema_components([Settings])[1]["Settings"]["properties"].items():
        name, schema = field
        default: Any = schema.get("default")
        found.append((variable(name), "" if default is None else str(default), schema["description"]))
    return found


def help_text() -> str:
    return "\n".join(f"  {name}  {text} [{default or '-'}]" for name, default, text in rows())

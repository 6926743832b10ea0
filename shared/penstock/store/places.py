"""Where Valkey is: reads a URL that names one server, a cluster, or a primary that Sentinels know.

    redis://user:password@host:6379/0                   one server (rediss:// with TLS; unix:///path)
    redis+cluster://user:password@a:6379,b:6379         some nodes of a cluster; they tell of the others
    redis+sentinel://user:password@a:26379,b:26379/name Sentinels, and the name of the primary that they watch

`valkey` and `valkeys` are the same as `redis` and `rediss`. User, password and options (`?ssl_ca_certs=…`) count for
every server that the URL leads to. A login for the Sentinels themselves is given with `?sentinel_password=…` and
`&sentinel_username=…`.
"""

import re
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

_SCHEMES: Final = r"^((valkey|redis)s?(\+cluster|\+sentinel)?|unix)://"
_PORTS: Final = {"cluster": 6379, "sentinel": 26379}
_EXAMPLES: Final = {
    "cluster": "redis+cluster://host:6379,host:6379",
    "sentinel": "redis+sentinel://host:26379,host:26379/name",
}


class UrlError(ValueError):
    """A URL of Valkey is wrong; the message says what it must look like, and repeats no part of it: a
    password with an unquoted `/` or `@` may be anywhere in it."""


class Host(msgspec.Struct, frozen=True):
    """The address of one server."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Place(msgspec.Struct, frozen=True):
    """What a URL says."""

    kind: Literal["server", "cluster", "sentinel"]
    url: str
    """The URL itself, its scheme `redis`, `rediss` or `unix`; used if the kind is `server`."""
    hosts: tuple[Host, ...] = ()
    """The nodes or Sentinels that the URL names."""
    group: str = ""
    """The name of the primary that the Sentinels watch."""
    scheme: str = "redis"
    login: str = ""
    database: str = ""
    options: str = ""
    sentinel_login: tuple[tuple[str, str], ...] = ()

    def url_of(self, host: Host) -> str:
        """Return the URL of one server that this place leads to."""
        options = f"?{self.options}" if self.options else ""
        return f"{self.scheme}://{self.login}{host}/{self.database}{options}"


def parse(url: str) -> Place:
    """Read a URL. Raise UrlError."""
    if not re.match(_SCHEMES, url):
        raise UrlError(
            "it must begin with redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://"
        )
    scheme, _, rest = url.partition("://")
    scheme, _, kind = scheme.replace("valkey", "redis").partition("+")
    if kind not in ("cluster", "sentinel"):
        return Place("server", f"{scheme}://{rest}")
    # Of several hosts, urlsplit refuses those in brackets (IPv6) from some patch releases of Python on: it gets none.
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    parts = urlsplit(f"//host{rest.removeprefix(authority)}")
    login, at, hosts = authority.rpartition("@")
    group, _, database = unquote(parts.path.strip("/")).partition("/")
    if kind == "cluster":
        group, database = "", group
        if database not in ("", "0"):
            raise UrlError("a cluster has database 0 only: leave the path out")
    elif not group:
        raise UrlError(f"it lacks the name of the primary that the Sentinels watch: {_EXAMPLES[kind]}")
    if database and not database.isdigit():
        raise UrlError("the database must be a number")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    sentinel_login = tuple(
        (name.removeprefix("sentinel_"), options.pop(name))
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    )
    return Place(
        kind,
        f"{scheme}://{rest}",
        tuple(_host(text.strip(), kind) for text in hosts.split(",")),
        group,
        scheme,
        login + at,
        database or "0",
        urlencode(options),
        sentinel_login,
    )


def _host(text: str, kind: Literal["cluster", "sentinel"]) -> Host:
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:  # such as a port that is no number
        name = port = None
    if not name:
        raise UrlError(f"it must read {_EXAMPLES[kind]}")
    return Host(name, port or _PORTS[kind])

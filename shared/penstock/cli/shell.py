"""`Shell`, which every command gets: the global options, the connection to NATS, and the output."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from cyclopts import Parameter
from nats import errors as nats_errors
from rich.console import Console
from rich.markup import escape

from penstock.cli.output import emit_json
from penstock.cli.problems import Problem, UsageProblem
from penstock.client import Client
from penstock.local import data_dir
from penstock.messages.common import Page, Reply
from penstock.urls import redact

T = TypeVar("T")
DEFAULT_URL: Final = "nats://127.0.0.1:4222"
DEFAULT_URLS: Final = frozenset({DEFAULT_URL, "nats://localhost:4222"})
DEFAULT_ROOT: Final = "penstock"


def consoles() -> tuple[Console, Console]:
    """Return the consoles for output and for errors. They are wide enough not to cut lines in a file or pipe."""
    out = Console(width=None if sys.stdout.isatty() else 1000)
    return out, Console(stderr=True, width=None if sys.stderr.isatty() else 1000)


@dataclass(frozen=True)
class Shell:
    """The global options, and methods to call Penstock and print replies accordingly."""

    console: Console
    errors: Console
    nats: str | None = None
    credentials: str | None = None
    named_root: str | None = None
    json: bool = False
    timeout: float = 10.0

    def nats_url(self) -> str:
        """Return --nats or its variable, else the URL of the `penstock up` in this directory, else the default URL."""
        if self.nats:
            return self.nats
        return str(self._here().get("nats_url", DEFAULT_URL))

    @property
    def root(self) -> str:
        """--root or its variable, else the root of the `penstock up` that `nats_url` found, else the default root."""
        found = {} if self.nats else self._here()
        return self.named_root or str(found.get("root", DEFAULT_ROOT))

    @property
    def login(self) -> str | None:
        """--creds or its variable, else an operator's identity, where the `penstock up` here is a secured one."""
        found = {} if self.nats else self._here()
        return self.credentials or found.get("operator")

    def _here(self) -> dict[str, Any]:
        """Return the facts of the `penstock up` that runs in this directory, or none if none runs."""
        return data_dir.DataDir(data_dir.DEFAULT).running() or {}

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """Yield a connected client of the SDK, and close it at the end."""
        url = self.nats_url()
        client = await Client.connect(
            url, self.login, root=self.root, timeout=self.timeout, name="penstock-cli"
        )
        try:
            yield client
        except nats_errors.Error as error:
            raise Problem(f"NATS at {redact(url)}: {error or type(error).__name__}") from None
        finally:
            await client.close()

    async def ask(self, verb: str, request: Mapping[str, Any], *, timeout: float | None = None) -> Reply:
        """Connect and call one verb. Fields of the request that are None are not sent."""
        async with self.client() as client:
            sent = {name: value for name, value in request.items() if value is not None}
            return await client.call(verb, sent, timeout=timeout)

    def show(self, reply: Any, human: Any = None) -> None:
        """Print a reply as JSON with --json (or without a `human` form), else print its `human` form."""
        if self.json or human is None:
            emit_json(reply)
        else:
            self.console.print(human)

    def show_page(self, page: Page[Any], human: Any) -> None:
        """As `show`, and tell people the cursor of a list's next page. JSON output already has it."""
        self.show(page, human)
        if page.cursor and not self.json:
            self.errors.print(f"[dim]more: --cursor {escape(page.cursor)}[/]")


ShellArgument = Annotated[Shell, Parameter(parse=False)]
STDIN = "/dev/stdin"
"""What `main` makes of the argument `-`, which would otherwise be taken for an option."""
TextOrDash = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A positional argument for which `-` means standard input, and that may begin with a hyphen. It must be required: the
options behind an optional one would be taken for it."""


def json_argument(text: str | None, name: str) -> msgspec.Raw | None:
    """Read JSON from an argument, from `@file`, or from standard input (`-`). The JSON is kept byte for byte."""
    if text is None:
        return None
    if text == STDIN or text.startswith("@"):
        body, hint = read_file(text.removeprefix("@"), name), ""
    else:
        body, hint = text.encode(), """ (a text needs its quotes: '"text"')"""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{name} is not JSON: {error}{hint}") from None
    return msgspec.Raw(body.strip())


def read_file(path: str, name: str) -> bytes:
    """Return a file's content."""
    if path in (STDIN, "-"):  # `-` after an `@`
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageProblem(f"{name}: cannot read {path}: {error.strerror}") from None


async def until(work: Awaitable[T], seconds: float | None) -> T:
    """Wait for `work`. Raise `Problem` with a plain sentence if it takes longer than `seconds`."""
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise Problem(f"not done within {seconds:g} s") from None

"""The HTTP gateway of a deployment on this machine: on loopback, with a token of its own for an operator."""

import asyncio
import secrets
import signal
import sys
from typing import Any, Final

from penstock import web
from penstock.files import write_whole
from penstock.local import servers
from penstock.local.data_dir import DataDir, read_json
from penstock.local.options import Options
from penstock.local.problems import Problem, Status
from penstock.local.secure import Security
from penstock.local.supervise import Child, in_words
from penstock_gateway import INSTALL
from penstock_gateway.tokens import TokensError, add

NAME: Final = "gateway"
PATIENCE_S: Final = 20.0
"""Seconds within which the gateway must be ready. The deployment starts without it after that."""
DRAIN_MS: Final = 2000
STOP_S: Final = 5.0
LOOK_S: Final = 0.03


class LocalGateway:
    """The gateway's process. Nothing else needs it: a deployment runs on without it if it does not start."""

    def __init__(self, options: Options, data: DataDir, security: Security | None, status: Status) -> None:
        self._options = options
        self._data = data
        self._security = security
        self._status = status
        self._child: Child | None = None
        self._token_file = data.path / "gateway.token"
        self._tokens = data.path / "gateway.tokens"
        self._ready_file = data.run / "gateway.json"
        self._url: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What other commands need to know; empty while no gateway is ready."""
        if self._url is None or self._child is None:
            return {}
        return {"gateway": {"url": self._url, "token_file": str(self._token_file), "pid": self._child.pid}}

    async def start(self, nats_url: str) -> None:
        """Start the process, if it is wanted and installed. Raise Problem if its files cannot be written."""
        self._ready_file.unlink(missing_ok=True)
        if not self._options.gateway:
            return
        if self._security is not None and self._security.gateway is None:
            folder = self._security.folder.path
            self._status.say(
                f"  HTTP: the gateway needs a user: `penstock secure {folder} --gateway gateway`"
            )
            return
        if not web.installed("prometheus_client"):
            self._status.say(f"  HTTP: {INSTALL}")
            return
        self._make_token()
        port = servers.choose_port(0, self._data.ports().get(NAME))
        self._data.remember_ports({NAME: port})
        env = {
            **self._options.settings,
            "PENSTOCK_ROOT": self._options.root,
            "PENSTOCK_NATS_URL": nats_url,
            "PENSTOCK_READY_FILE": str(self._ready_file),
            "PENSTOCK_GATEWAY_HOST": "127.0.0.1",
            "PENSTOCK_GATEWAY_PORT": str(port),
            "PENSTOCK_GATEWAY_TOKENS": str(self._tokens),
            "PENSTOCK_GATEWAY_DRAIN_TIMEOUT_MS": str(DRAIN_MS),
        }
        if self._security is not None:
            env["PENSTOCK_NATS_CREDS"] = str(self._security.gateway)
        command = [sys.executable, "-P", "-m", "penstock_gateway"]
        self._child = Child(NAME, command, self._data.log(NAME), env, on_end=self._ended)
        await self._child.start()

    async def ready(self) -> None:
        """Wait until the gateway answers, and say where; or say that it does not."""
        if self._child is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while loop.time() < deadline:
            said = read_json(self._ready_file)
            if said and said.get("pid") == self._child.pid:
                self._url = said["url"]
                self._status.good(NAME, f"pid {self._child.pid:<8} {self._url} (token: {self._token_file})")
                return
            await asyncio.sleep(LOOK_S)
        self._status.bad(NAME, f"is not ready, going on without it: {self._child.last_word()}")

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(STOP_S)

    def signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.signal(number)

    def _make_token(self) -> None:
        """Make an operator's token at the first start: one file has it, the other its digest."""
        if self._token_file.exists() and self._tokens.exists():
            return
        try:
            token = add(self._tokens, f"up-{secrets.token_hex(3)}", "operator")
            write_whole(self._token_file, token + "\n", 0o600)
        except (OSError, TokensError) as error:
            raise Problem(f"cannot make a token for the gateway: {error}") from None

    def _ended(self, child: Child, code: int) -> None:
        said = child.last_word() or in_words(code)
        self._status.bad(NAME, f"ended ({said}); starting it again. Log: {child.log}")

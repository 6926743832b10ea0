"""The metrics port: `/metrics`, `/healthz` (the event loop runs) and `/readyz`, over minimal HTTP.

The port is served by the process's event loop on purpose: a process whose loop hangs must not report healthy.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Final

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
JSON: Final = "application/json"
PATIENCE_S: Final = 5.0
LONGEST: Final = 16_384

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Unready"}


class MetricsPort:
    """The HTTP server for the metrics and health of one process. `url` is the address of /metrics.

    exposition: returns the body of /metrics. missing: returns what the process lacks to be ready.
    """

    def __init__(self, exposition: Callable[[], bytes], missing: Callable[[], Sequence[str]]) -> None:
        self._exposition = exposition
        self._missing = missing
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Start listening. Port 0 picks a free port. Raise OSError if the address cannot be had."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=LONGEST)
        bound = self._server.sockets[0].getsockname()[1]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where to look from here
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{bound}/metrics"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(head.split(b"\r\n", 1)[0].split(b" "))
                writer.write(
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                if not head.startswith(b"HEAD "):
                    writer.write(body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client sent no whole request, or did not wait for the response
        finally:
            writer.close()

    def _answer(self, request: list[bytes]) -> tuple[int, str, bytes]:
        if len(request) != 3:
            return 400, TEXT, b"bad request\n"
        method, target, _ = request
        if method not in (b"GET", b"HEAD"):
            return 405, TEXT, b"only GET\n"
        path = target.split(b"?")[0]
        if path == b"/metrics":
            return 200, TEXT, self._exposition()
        if path == b"/healthz":
            return 200, TEXT, b"alive\n"
        if path == b"/readyz":
            missing = list(self._missing())
            body = json.dumps({"ready": not missing, "missing": missing}).encode()
            return 503 if missing else 200, JSON, body
        return 404, TEXT, b"/metrics, /healthz, /readyz\n"

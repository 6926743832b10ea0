"""Serve the console's files (Starlette and uvicorn), and tell the browser where NATS is."""

import contextlib
import socket
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from penstock import web
from penstock.local.problems import Problem

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

STATIC: Final = Path(__file__).parent / "static"
NOT_BUILT: Final = "it is not built: `make console` builds it in a checkout, with Node or the nodejs wheel"
NOT_INSTALLED: Final = "it needs Starlette and uvicorn: pip install 'penstock[console]'"
A_YEAR: Final = "public, max-age=31536000, immutable"
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the browser is told: `nats_ws`, the URL of NATS' WebSocket, the root, and whether users must log in."""

    nats_ws: str
    root: str
    secured: bool = False


def missing() -> str | None:
    """Return why the console cannot be served, with what to do; None if it can."""
    if not web.installed():
        return NOT_INSTALLED
    return None if (STATIC / "index.html").exists() else NOT_BUILT


def application(config: Config) -> "Starlette":
    """Return the application: files under `/assets/`, `config.json`, and the page itself for every other path.

    Every path of the console is a link that can be opened, so what is no file is the page.
    """
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    policy = (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; "
        f"connect-src 'self' {config.nats_ws}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )

    async def page(request: "Request") -> "Response":
        headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return FileResponse(STATIC / "index.html", headers=headers)

    async def told(request: "Request") -> "Response":
        body = msgspec.json.encode(config)
        return Response(
            body, media_type="application/json", headers={**_HEADERS, "Cache-Control": "no-store"}
        )

    class Assets(StaticFiles):
        """Files whose names change with their content."""

        def file_response(self, *args: Any, **kwargs: Any) -> "Response":
            response = super().file_response(*args, **kwargs)
            response.headers.update({**_HEADERS, "Cache-Control": A_YEAR})
            return response

    return Starlette(
        routes=[
            Route("/config.json", told),
            Mount("/assets", Assets(directory=STATIC / "assets")),
            Route("/{path:path}", page),
        ]
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens: who connects from now on is answered once `serve` runs. Raise Problem."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise Problem(f"the console cannot listen on {host}:{port}: {error.strerror}") from None


async def serve(config: Config, listening: socket.socket) -> None:
    """Serve the console on a socket of `listen` until cancelled, and close it."""
    import uvicorn
    from starlette.middleware.gzip import GZipMiddleware

    class Server(uvicorn.Server):
        """A server that leaves signals to the program that it is a part of."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    app = GZipMiddleware(application(config), minimum_size=1000)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    with listening:
        await Server(settings).serve(sockets=[listening])

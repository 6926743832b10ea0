"""A nats-server whose disk was full refuses messages until it is started again. This says when that is called for."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

LOOK_S: Final = 2.0
LOOKS: Final = 4
"""As many looks in a row must find a refusing stream: a service may recover by itself, within about five seconds."""
ROOM: Final = 64 * 2**20
"""Bytes that the disk must have free: a restart before that would lead to the next write error."""
ANSWER_S: Final = 2.0


async def refusing(folder: Path, streams: str, metrics_urls: Callable[[], Iterable[str]]) -> None:
    """Return once services find that streams refuse messages, although the disk of `folder` has room again.

    streams: what the names of the streams begin with; metrics_urls: of all services now.
    """
    found = 0
    while found < LOOKS:
        await asyncio.sleep(LOOK_S)
        missing = await asyncio.gather(*(asyncio.to_thread(unready, url) for url in metrics_urls()))
        refused = any(name.startswith(streams) for names in missing for name in names)
        found = found + 1 if refused and has_room(folder) else 0


def has_room(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free >= ROOM
    except OSError:
        return False


def unready(metrics_url: str) -> list[str]:
    """Return what a service lacks to be ready, as its /readyz says; nothing if it does not answer."""
    port = HTTPConnection(urlsplit(metrics_url).netloc, timeout=ANSWER_S)
    try:
        port.request("GET", "/readyz")
        answer: dict[str, Any] = json.loads(port.getresponse().read())
        return answer["missing"]
    except (OSError, HTTPException, ValueError):
        return []
    finally:
        port.close()

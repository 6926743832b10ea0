"""Restore a backup into empty servers on which no service runs."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from penstock.backup import jetstream
from penstock.backup.folder import BackupError, Manifest, opened
from penstock.backup.valkey import Valkey
from penstock.bus.listening import listen
from penstock.store import LIBRARY_VERSION
from penstock.verbs import SERVICES

LISTEN_S: Final = 0.5
"""How long services have to answer a ping."""


async def restore(
    path: Path, nats: Client, valkey_url: str, tell: Callable[[str], object], root: str | None = None
) -> Manifest:
    """Restore a backup. `tell(text)` hears what is being done; `root`: refuse a backup of another root.

    Raise BackupError: for a damaged backup, and where a service runs or something of this Penstock is there already;
    then nothing was changed. What a failed restore has made is removed again.
    """
    tell("checking the files")
    manifest = await asyncio.to_thread(opened, path)
    if root is not None and root != manifest.root:
        raise BackupError(f"the backup is of the root {manifest.root!r}, and can only be restored under it")
    if manifest.library > LIBRARY_VERSION:
        raise BackupError(
            f"Penstock {manifest.penstock} made this backup: restore it with that version or a newer one"
        )
    async with Valkey.open(valkey_url) as valkey:
        prefix = manifest.root + ":{"
        await _check_empty(nats, valkey, manifest, prefix)
        try:
            for name, stream in manifest.streams.items():
                tell(f"restoring {name}")
                await jetstream.restore(nats, name, stream, path)
            tell("restoring keys")
            await valkey.load(path / manifest.keys, prefix)
        except BaseException:
            await _undo(nats, valkey, manifest, prefix)
            raise
    return manifest


async def _check_empty(nats: Client, valkey: Valkey, manifest: Manifest, prefix: str) -> None:
    if running := await _running(nats, manifest.root):
        raise BackupError(
            f"services run here ({', '.join(running)}): stop them, and restore into empty servers"
        )
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    for name in manifest.streams:
        try:
            await js.stream_info(name)
        except NotFoundError:
            continue
        except (NatsError, TimeoutError) as error:
            raise BackupError(f"JetStream: {error or 'no answer'}") from None
        raise BackupError(
            f"the stream {name} exists already: restore into an empty nats-server, or delete the streams of this root"
        )
    if await valkey.any_key(prefix):
        raise BackupError(
            f"Valkey has keys under the root {manifest.root!r}: restore into an empty one, or delete `{prefix}*`"
        )


async def _running(nats: Client, root: str) -> list[str]:
    """Return the services of this root that answer a ping of the NATS micro protocol."""
    inbox = nats.new_inbox()
    names = {f"{inbox}.{service}": service for service in SERVICES}
    found: set[str] = set()

    def heard(message: Msg) -> None:
        if message.data:  # the server itself answers "no responders" without data
            found.add(names[message.subject])

    subscription = await listen(nats, f"{inbox}.*", heard)
    for reply, service in names.items():
        await nats.publish(f"$SRV.PING.{root}-{service}", b"", reply=reply)
    await asyncio.sleep(LISTEN_S)
    await subscription.unsubscribe()
    return sorted(found)


async def _undo(nats: Client, valkey: Valkey, manifest: Manifest, prefix: str) -> None:
    """Remove what was restored: the servers were empty, and half a Penstock must not be started."""
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    for name in manifest.streams:
        with contextlib.suppress(NatsError, TimeoutError):
            await js.delete_stream(name)
    with contextlib.suppress(BackupError):
        await valkey.remove(prefix)

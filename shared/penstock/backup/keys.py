"""The keys on one server, copied while they change, until a short pause in which nothing changes (valkey.py).

Valkey's client tracking in broadcast mode tells which keys under the prefix change. So all keys are dumped once
while the services go on, then those that have changed meanwhile, again and again, until few are left. Only for these
are writes paused (CLIENT PAUSE … WRITE). This is how virtual machines move between hosts: C. Clark et al., "Live
Migration of Virtual Machines", NSDI 2005.

The file is a log: a record for each dump of a key, [key, time of its expiry in ms or -1, what DUMP gave or null: the
key is gone], msgpack with its length (4 bytes, big-endian) in front. The last record of a key counts.
"""

import asyncio
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

import msgspec
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError, ResponseError

from penstock.backup.folder import BackupError, Sink
from penstock.urls import redact

TOGETHER: Final = 100
"""So many keys are dumped or restored in one pipeline: each may hold a payload of a MiB or more."""
FEW: Final = 200
"""Writes are paused when no more keys than this are to be dumped."""
ROUNDS: Final = 20
"""Or after so many rounds: then the services change keys faster than they can be read."""
CONNECT_S: Final = 5.0
NO_REPLY_S: Final = 30.0
"""Most seconds for the replies of one pipeline."""

Record = tuple[bytes, int, bytes | None]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Record).decode
_length: Final = struct.Struct(">I")


class Primary:
    """One connection to a server that takes writes (RESP3), for pipelines of plain commands."""

    def __init__(self, connection: Any, url: str) -> None:
        self.dirty: set[bytes] = set()
        """Keys that have changed since they were dumped (with `track`)."""
        self.emptied = False
        self._connection = connection
        self._url = url

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Connect. Raise BackupError."""
        options = cast("dict[str, Any]", parse_url(url))
        kind = options.pop("connection_class", Connection)
        connection = kind(**options, protocol=3, socket_connect_timeout=CONNECT_S)
        valkey = cls(connection, url)
        try:
            await connection.connect()
            connection._parser.set_invalidation_push_handler(valkey._changed)
        except (RedisError, OSError) as error:
            raise valkey._problem(error) from None
        return valkey

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _changed(self, push: list[Any]) -> None:
        if push[1] is None:
            self.emptied = True
        else:
            self.dirty.update(push[1])

    async def ask(self, *command: Any) -> Any:
        """Run a command and return its reply. Raise BackupError."""
        [reply] = await self.many([command])
        if isinstance(reply, ResponseError):
            raise self._problem(reply, str(command[0]))
        return reply

    async def many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands in one pipeline. Return replies and ResponseErrors.

        Raise BackupError if the connection is lost.
        """
        connection = self._connection
        replies: list[Any] = []
        try:
            async with asyncio.timeout(NO_REPLY_S):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                for _ in commands:
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        replies.append(error)
        except (RedisError, OSError) as error:
            raise self._problem(error) from None
        return replies

    def _problem(self, error: Exception, what: str = "") -> BackupError:
        said = f"{what}: {error}" if what else str(error) or type(error).__name__
        return BackupError(f"Valkey at {redact(self._url)}: {said}")

    # -- a copy of the keys ------------------------------------------------------------------------

    async def track(self, prefix: str) -> None:
        """Hear from now on, in `dirty`, of every change to a key that begins like this."""
        await self.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)

    async def drain(self) -> None:
        """Return when `dirty` has all changes that happened before."""
        await self.ask("PING")
        if self.emptied:
            raise BackupError("Valkey was emptied (FLUSHALL) during the backup")

    async def scan(self, prefix: str, sink: Sink) -> int:
        """Dump all keys that begin like this; return their number. Keys may come twice."""
        cursor, found = b"0", 0
        while True:
            cursor, keys = await self.ask("SCAN", cursor, "MATCH", prefix + "*", "COUNT", 1000)
            await self.dump(keys, sink)
            found += len(keys)
            if cursor == b"0":
                return found

    async def catch_up(self, sink: Sink) -> None:
        """Dump what has changed, until little is left to do."""
        await self.drain()
        for _ in range(ROUNDS):
            if len(self.dirty) <= FEW:
                return
            await self.dump(list(self.dirty), sink)
            await self.drain()

    async def dump(self, keys: list[bytes], sink: Sink) -> None:
        """Append records of these keys as they are now."""
        for begin in range(0, len(keys), TOGETHER):
            some = keys[begin : begin + TOGETHER]
            self.dirty.difference_update(
                some
            )  # before they are read: a change from here on makes them dirty again
            asked = [each for key in some for each in (("DUMP", key), ("PEXPIRETIME", key))]
            replies = iter(await self.many(asked))
            for key, dumped, expires in zip(some, replies, replies, strict=True):
                for reply in (dumped, expires):
                    if isinstance(reply, ResponseError):
                        raise self._problem(reply, "DUMP, PEXPIRETIME")
                record = _encode((key, expires if dumped is not None else -1, dumped))
                sink.write(_length.pack(len(record)) + record)

    # -- and back ----------------------------------------------------------------------------------

    async def any_key(self, prefix: str) -> bool:
        """Return whether there is a key that begins like this."""
        cursor = b"0"
        while True:
            cursor, keys = await self.ask("SCAN", cursor, "MATCH", prefix + "*", "COUNT", 1000)
            if keys or cursor == b"0":
                return bool(keys)

    async def remove(self, prefix: str) -> None:
        """Remove all keys that begin like this."""
        while True:
            cursor = b"0"
            found = False
            while True:
                cursor, keys = await self.ask("SCAN", cursor, "MATCH", prefix + "*", "COUNT", 1000)
                found = found or bool(keys)
                await self.run([("UNLINK", key) for key in keys])  # in a cluster, each has a slot of its own
                if cursor == b"0":
                    break
            if not found:
                return

    async def run(self, commands: list[tuple[Any, ...]]) -> None:
        """Run commands that restore or remove. Raise BackupError if one fails."""
        if not commands:
            return
        for reply in await self.many(commands):
            if isinstance(reply, ResponseError):
                hint = ""
                if "payload version" in str(reply):
                    hint = "; the backup is of a newer Valkey (see `valkey` in its manifest): restore into that one"
                raise self._problem(ResponseError(f"{reply}{hint}"), "RESTORE")


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file."""
    with path.open("rb") as file:
        while head := file.read(_length.size):
            yield _decode(file.read(_length.unpack(head)[0]))

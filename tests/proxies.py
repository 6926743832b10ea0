"""TCP proxies that tests put before a server: they can be cut, slow, or hold back what a service publishes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

DEADLINE_S = 60.0
_LIMIT = 2**20


class Proxy:
    """A proxy that can be cut: open connections break, and new ones are refused. `url`: where it listens."""

    url: str

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._scheme, self._target = place.scheme, (place.hostname, place.port)
        self._open: set[asyncio.StreamWriter] = set()
        self.cut = False

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Self]:
        proxy = cls(url)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0, limit=_LIMIT)
        proxy.url = f"{proxy._scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            proxy.sever()
            server.close()

    def lead_to(self, url: str) -> None:
        """Break the open connections; later ones lead to another server."""
        place = urlsplit(url)
        self._target = (place.hostname, place.port)
        for writer in self._open:
            writer.transport.abort()

    def sever(self) -> None:
        self.cut = True
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, far_writer}

        async def pump(chunks: AsyncIterator[bytes], sink: asyncio.StreamWriter) -> None:
            try:
                async for chunk in chunks:
                    sink.write(chunk)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                sink.transport.abort()

        await asyncio.gather(pump(self._sent(reader), far_writer), pump(self._received(far_reader), writer))
        self._open -= {writer, far_writer}

    def _sent(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield what the client's side sends and the server is to get."""
        return _chunks(reader)

    def _received(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield what the server sends and the client is to get."""
        return _chunks(reader)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65536):
        yield data


class SlowProxy(Proxy):
    """A proxy behind which, once `slow`, the server's answers arrive ten bytes at a time, twenty times a second."""

    slow = False

    async def _received(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        async for chunk in _chunks(reader):
            size = 10 if self.slow else len(chunk)
            for at in range(0, len(chunk), size):
                if self.slow:
                    await asyncio.sleep(0.05)
                yield chunk[at : at + size]


class NatsProxy(Proxy):
    """A proxy before nats-server that holds back what its client publishes and `holds(subject, body)` picks out.

    So a test stops a service at one moment of its work: the service has done all that comes before such a message, and
    the message never arrives. `held`: the subjects of the messages held back.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.held: list[str] = []
        self.holds: Callable[[str, bytes], bool] = lambda subject, body: False
        self._holds_more = asyncio.Event()

    def hold_acks(self) -> None:
        """From now on, hold back all acknowledgements of messages that were handled."""
        self.holds = lambda subject, body: subject.startswith("$JS.ACK.") and not body

    async def held_back(self, count: int) -> None:
        """Wait until so many messages have been held back."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.held) < count:
                self._holds_more.clear()
                await self._holds_more.wait()

    async def _sent(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while True:
            line = await reader.readuntil(b"\r\n")
            words = line.split()
            if words[0] not in (b"PUB", b"HPUB"):
                yield line
                continue
            body = await reader.readexactly(int(words[-1]) + 2)
            if self.holds(subject := words[1].decode(), body[:-2]):
                self.held.append(subject)
                self._holds_more.set()
            else:
                yield line + body

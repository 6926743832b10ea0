"""A connection to a real server that a test can cut, or make lossy."""

import asyncio


class Proxy:
    """A proxy to a server.

    cut: connections break, and new ones are refused. loses: what clients write is lost if it contains these bytes.
    """

    def __init__(self, url: str) -> None:
        self._scheme, _, place = url.partition("://")
        host, _, port = place.partition("/")[0].partition(":")
        self._target = host, int(port)
        self._open: set[asyncio.StreamWriter] = set()
        self.cut = False
        self.loses: bytes | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def sever(self) -> None:
        self.cut = True
        for writer in self._open:
            writer.transport.abort()

    def close(self) -> None:
        self.sever()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, far_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    if source is far_reader or self.loses is None or self.loses not in data:
                        sink.write(data)
            except OSError:
                pass
            finally:
                sink.transport.abort()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        self._open -= {writer, far_writer}

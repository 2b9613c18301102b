"""A relay in front of a server: the tests cut its connections, and give it TLS or a Unix socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Relay:
    """Copies bytes between its clients and a server, and records what the clients wrote."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.written = bytearray()
        self.address = ""
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.target.rsplit(":", 1)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        self.connections += 1
        self._writers |= {writer, far_writer}
        await asyncio.gather(
            self._copy(reader, far_writer, is_client=True), self._copy(far_reader, writer, is_client=False)
        )
        self._writers -= {writer, far_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_client: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if is_client:
                    self.written += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def cut(self) -> None:
        """Ends all connections at once."""
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def relay(
    target: str, *, path: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Relay]:
    """A relay to the target, on a free port or at the path of a Unix socket."""
    found = Relay(target)
    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(found.serve, path, ssl=tls)
        found.address = f"unix:{path}"
    else:
        server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
        found.address = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        found.cut()
        await asyncio.sleep(0)


@asynccontextmanager
async def scripted(greeting: bytes) -> AsyncIterator[str]:
    """The address of a server that writes the greeting, and nothing else."""
    writers: list[asyncio.StreamWriter] = []

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(greeting)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def refused_address() -> str:
    """An address where nothing listens."""
    async with scripted(b"") as address:
        return address

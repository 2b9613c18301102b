"""Fixtures: servers, and a controller of the kit's test server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

import bellwire
from bellwire import Client
from servers import ServerProcess, kit_server, offers_server

#: A bound on everything that a test waits for.
PATIENCE = 60


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Ends a test that waits for something that does not come."""

    def too_late(signum: int, frame: object) -> None:
        raise TimeoutError("the test took too long")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(4 * PATIENCE)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def offers() -> Iterator[ServerProcess]:
    with offers_server() as server:
        yield server


@pytest.fixture(scope="session")
def kit() -> Iterator[ServerProcess]:
    with kit_server() as server:
        yield server


class Control:
    """Opens servers in the kit's process, and drives them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def open(self, *options: str) -> str:
        """Opens a server with these options; returns its address."""
        return (await self._client.call("test.open", " ".join(options))).text()

    async def do(self, what: str, address: str, *arguments: str) -> str:
        """Calls a control method."""
        return (await self._client.call(f"test.{what}", " ".join((address, *arguments)))).text()


@pytest.fixture
async def control(kit: ServerProcess) -> AsyncIterator[Control]:
    async with bellwire.connect(kit.address) as client:
        yield Control(client)


@pytest.fixture
async def client(offers: ServerProcess) -> AsyncIterator[Client]:
    async with asyncio.timeout(PATIENCE), bellwire.connect(offers.address) as client:
        yield client

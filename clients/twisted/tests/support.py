"""What the tests share: servers, a controller of the kit's server, and clients that are stopped."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from bellwire import Delivery
from bellwire_twisted import Client
from servers import ServerProcess, kit_server, offers_server
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from cable import Cable

reactor: Any = the_reactor

Error = TypeVar("Error", bound=Exception)


@functools.cache
def offers() -> ServerProcess:
    """The example server, for all tests."""
    server = offers_server()
    atexit.register(server.kill)
    return server


@functools.cache
def kit() -> ServerProcess:
    """The kit's server, for all tests."""
    server = kit_server()
    atexit.register(server.kill)
    return server


class Inbox:
    """Deliveries or items as they come, and a way to wait for the next one."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._read = 0
        self._waiting: Deferred[None] | None = None

    def __call__(self, delivery: Delivery | bytes) -> None:
        self.all.append(delivery)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def next(self) -> Any:
        while self._read == len(self.all):
            self._waiting = Deferred()
            await self._waiting
        self._read += 1
        return self.all[self._read - 1]


class ClientCase(TestCase):
    """A test with clients and relays that are stopped at its end."""

    timeout = 120

    async def start(self, *addresses: str, **options: Any) -> Client:
        """A client that has a connection."""
        client = self.make(*addresses, **options)
        client.startService()
        await client.whenConnected()
        return client

    def make(self, *addresses: str, **options: Any) -> Client:
        client = Client(*addresses, **options)
        self.addCleanup(self._stop, client)
        return client

    @staticmethod
    def _stop(client: Client) -> Deferred[Any]:
        client.abort()
        # One more turn: transports close in it.
        return client.whenEnded().addCallback(lambda _: deferLater(reactor, 0.01, lambda: None))

    def cable(self, target: str, **options: Any) -> Cable:
        cable = Cable(target, **options)
        self.addCleanup(cable.stop)
        return cable

    async def fails(self, outcome: Deferred[Any], kind: type[Error]) -> Error:
        """The failure of a Deferred, which has to be of this kind."""
        try:
            found = await outcome
        except kind as error:
            return error
        raise AssertionError(f"{found!r} came instead of {kind.__name__}")

    async def control(self) -> Callable[..., Deferred[str]]:
        """Calls a control method of the kit's server."""
        client = await self.start(kit().address)

        def do(what: str, *arguments: str) -> Deferred[str]:
            return client.call(f"test.{what}", " ".join(arguments)).addCallback(lambda reply: reply.text())

        return do

    async def until(self, is_true: Callable[[], Any]) -> None:
        """Waits until something is true."""
        while True:
            found = is_true()
            if await found if isinstance(found, Deferred) else found:
                return
            await deferLater(reactor, 0.01, lambda: None)

"""The shell of the core for asyncio: transports, timers, and the tasks that wait."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import weakref
from collections.abc import Coroutine, Mapping
from typing import cast

from . import _racing, addresses, credentials
from ._events import ConnectionEvents
from ._signal import Signal
from .addresses import TcpAddress
from .core.core import Core
from .core.events import Authenticate, ConnectionEvent, Ended, Open
from .core.requests import Request
from .core.shell import Shell
from .core.subscription import Subscription
from .credentials import Credentials
from .errors import ConnectionFailure, SilentServer, TransportFailed

#: How long a transport may take to write what it holds, once it was closed.
_LINGER = 5.0


class Driver(Shell):
    """Does what the core says, and tells it what happens."""

    def __init__(
        self,
        core: Core,
        secrets: Mapping[str, Credentials],
        tls: ssl.SSLContext | None,
        server_hostname: str | None,
        held_events: int,
    ) -> None:
        super().__init__(core)
        self.loop = asyncio.get_running_loop()
        self.ended = Signal()
        #: Why the last round of attempts to connect failed.
        self.last_failure: ConnectionFailure | None = None
        self.changed = Signal()
        self._secrets = secrets
        self._tls = tls
        self._server_hostname = server_hostname
        self._held_events = held_events
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._transports: dict[int, asyncio.Transport] = {}
        self._listeners: weakref.WeakSet[ConnectionEvents] = weakref.WeakSet()
        self._lingering: dict[int, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> float:
        return self.loop.time()

    def call_soon(self) -> None:
        self.loop.call_soon(self.run)

    def set_timer(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self.loop.call_at(due, self.on_timer)

    # Transports.

    def open(self, output: Open) -> None:
        self._begin(output.number, self._open(output))

    def _begin(self, number: int, work: Coroutine[None, None, None]) -> None:
        """Starts a task for a connection. `close` cancels it."""
        task = self.loop.create_task(work)
        if not task.done():  # an eager task may have ended already
            self._tasks[number] = task
            task.add_done_callback(lambda done: self._forget(number, done))

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(number) is task:
            del self._tasks[number]

    def write(self, number: int, data: bytes) -> None:
        if number in self._transports:
            self._transports[number].write(data)

    async def _open(self, output: Open) -> None:
        try:
            async with asyncio.timeout(output.within):
                await self._connect(output)
        except TimeoutError:
            self._failed(output.number, SilentServer(f"{output.address} did not answer in time"))
        except Exception as error:  # for example, an invalid host name raises ValueError
            self._failed(output.number, TransportFailed(f"cannot connect to {output.address}: {error}"))

    async def _connect(self, output: Open) -> None:
        address = addresses.parse(output.address)
        if isinstance(address, TcpAddress):
            connected = await _racing.connect(address.host, address.port)
            try:
                await self.loop.create_connection(
                    lambda: _Transport(self, output.number),
                    sock=connected,
                    ssl=self._tls,
                    server_hostname=(self._server_hostname or address.host) if self._tls else None,
                )
            except Exception:
                connected.close()  # without a transport, nothing else closes it
                raise
            return
        await self.loop.create_unix_connection(
            lambda: _Transport(self, output.number),
            address.path,
            ssl=self._tls,
            server_hostname=(self._server_hostname or "localhost") if self._tls else None,
        )

    def _failed(self, number: int, error: ConnectionFailure) -> None:
        self.core.open_failed(self.now(), number, error)
        self.run()

    def opened(self, number: int, transport: asyncio.Transport) -> None:
        connected = transport.get_extra_info("socket")
        if connected is not None:
            addresses.tune(connected)
        self._transports[number] = transport
        self.core.opened(self.now(), number)
        self.run()

    def closed(self, number: int, error: ConnectionFailure) -> None:
        if number in self._lingering:
            self._lingering.pop(number).cancel()
        if self._transports.pop(number, None) is not None:
            self.core.lost(self.now(), number, error)
            self.run()

    def close(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        transport = self._transports.pop(number, None)
        if transport is not None:
            transport.close()
            self._lingering[number] = self.loop.call_later(_LINGER, transport.abort)

    def drop(self) -> None:
        """Runs, and aborts closed transports whose bytes are written. TLS would wait for the other end."""
        transports = list(self._transports.values())
        self.run()
        for transport in transports:
            if transport.is_closing() and transport.get_write_buffer_size() == 0:
                transport.abort()

    def authenticate(self, output: Authenticate) -> None:
        self._begin(output.number, self._authenticate(output))

    async def _authenticate(self, output: Authenticate) -> None:
        try:
            found = self._secrets[output.scheme]
            secret = found() if callable(found) else found
            if inspect.isawaitable(secret):
                secret = await secret
            encoded = credentials.encode(secret)
        except Exception as error:  # of the application's function
            why = f"the function for the credentials failed with {type(error).__name__}"
            self.core.no_credentials(self.now(), output.number, why)
        else:
            self.core.authenticate(self.now(), output.number, output.scheme, encoded)
        self.run()

    # The application.

    def check_loop(self) -> None:
        """Raises ``RuntimeError`` in a task of another event loop: nothing could wake it from this one."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("this client belongs to another event loop: use it in the one where it began")

    def round_failed(self, error: ConnectionFailure) -> None:
        self.last_failure = error
        self.changed.notify()

    async def outcome(self, request: Request, deadline: float | None) -> None:
        """Waits until a request is done. Cancels it if the task is cancelled."""
        self.check_loop()
        signal = Signal()
        request.waker = signal.notify
        self.core.submit(self.now(), request, deadline)
        self.schedule()
        try:
            while not request.done:
                await signal.wait()
        except asyncio.CancelledError:
            self.give_up(request)
            raise
        if request.error is not None:
            raise request.error

    def give_up(self, request: Request) -> None:
        self.core.give_up(self.now(), request)
        self.schedule()

    def unsubscribe(self, subscription: Subscription) -> None:
        self.core.unsubscribe(self.now(), subscription)
        self.schedule()

    def listen(self) -> ConnectionEvents:
        """The events from now on, for as long as the application keeps the iterator."""
        events = ConnectionEvents(self._held_events, self.core.ended is not None)
        self._listeners.add(events)
        return events

    def tell(self, event: ConnectionEvent) -> None:
        for events in list(self._listeners):
            events.push(event)
        self.changed.notify()
        if isinstance(event, Ended):
            self.ended.notify()


class _Transport(asyncio.Protocol):
    """A connection of asyncio."""

    def __init__(self, driver: Driver, number: int) -> None:
        self._driver = driver
        self._number = number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop are not instances of asyncio.Transport.
        self._driver.opened(self._number, cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._driver.core.received(self._driver.now(), self._number, data)
        self._driver.run()

    def pause_writing(self) -> None:
        self._driver.core.writable(self._driver.now(), self._number, False)

    def resume_writing(self) -> None:
        self._driver.core.writable(self._driver.now(), self._number, True)
        self._driver.run()

    def connection_lost(self, exc: Exception | None) -> None:
        text = f"the connection was lost: {exc}" if exc else "the server closed the connection"
        self._driver.closed(self._number, TransportFailed(text))

"""The client for asyncio."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any

from . import addresses as addressing
from . import credentials
from ._driver import Driver
from ._events import ConnectionEvents
from ._streaming import Stream
from ._subscription import Subscription
from .config import Config
from .core import asking
from .core.asking import Ack, Payload, Slow
from .core.core import Core
from .core.events import Stats
from .core.hello import Hello
from .credentials import Credentials
from .errors import ConnectionFailure
from .values import Position, Published, Reply


class Client:
    """A client, over all its connections. Made by `connect`, or by `Client.start`.

    Its methods are for the tasks of one event loop. All of them may be used side by side: calls do not wait
    for each other.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @classmethod
    def start(
        cls,
        *addresses: str,
        token: Credentials | None = None,
        auth: Mapping[str, Credentials] | None = None,
        tls: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        reconnect: bool = True,
        config: Config | None = None,
    ) -> Client:
        """Begins to connect, and returns at once. Calls wait for the connection, up to their deadlines.

        The parameters are those of `connect`. A client that reconnects tries for ever; see
        ``Config.give_up_after``.
        """
        config = config or Config()
        for address in addresses:
            addressing.parse(address)
        secrets = credentials.collect(token, auth)
        context = _context(tls)
        core = Core(
            addresses,
            config,
            reconnects=reconnect,
            schemes=tuple(secrets),
            has_fixed_credentials=credentials.are_fixed(secrets),
        )
        driver = Driver(core, secrets, context, server_hostname, config.held_events)
        core.start(driver.now())
        driver.schedule()
        return cls(driver)

    # The connection.

    async def connected(self) -> Hello:
        """Waits for a connection, and returns what its server announced.

        Raises the `ConnectionFailure` if the client has ended. Goes on waiting after a failed round.
        """
        self._driver.check_loop()
        while (link := self._driver.core.current) is None or link.hello is None:
            if self._driver.core.ended is not None:
                raise self._driver.core.ended.with_traceback(None)  # without those of earlier raises
            await self._driver.changed.wait()
        return link.hello

    async def _first_round(self) -> None:
        """Waits for the first connection. It need not be there any more: a busy server says ``/bye`` at once."""
        core = self._driver.core
        while core.current is None and not (core.has_connected and core.may_connect):
            error = core.ended or self._driver.last_failure
            if error is not None:
                self.abort()
                raise error
            await self._driver.changed.wait()

    @property
    def ended(self) -> ConnectionFailure | None:
        """Why the client has ended for good; ``None`` while it goes on."""
        return self._driver.core.ended

    async def wait_ended(self) -> ConnectionFailure:
        """Waits until the client has ended for good, and returns why."""
        self._driver.check_loop()
        while self._driver.core.ended is None:
            await self._driver.ended.wait()
        return self._driver.core.ended

    async def close(self) -> None:
        """Ends in order: new calls are not sent, those in flight are answered, then the server closes.

        Takes at most ``Config.close_timeout``. Subscriptions end with the reason ``client-closed``.
        """
        self._driver.check_loop()
        self._driver.core.close(self._driver.now())
        self._driver.run()
        await self.wait_ended()

    def abort(self) -> None:
        """Ends at once: the outcome of calls in flight is unknown."""
        self._driver.core.abort(self._driver.now())
        self._driver.drop()

    def events(self) -> ConnectionEvents:
        """What happens to the connections from now on."""
        return self._driver.listen()

    @property
    def stats(self) -> Stats:
        """What was ignored so far."""
        return self._driver.core.stats

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return self.abort()
        try:
            await self.close()
        except asyncio.CancelledError:
            self.abort()  # nobody is left who could wait for the end
            raise

    # Requests.

    async def call(
        self,
        method: str,
        payload: Payload = b"",
        *,
        deadline: float | None = None,
        key: str | None = None,
        idempotent: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> Reply:
        """Calls a method, and returns its reply.

        ``deadline`` is in seconds, over all attempts, and is told to the server; without it
        ``Config.deadline`` counts, which the server is not told. With a ``key`` the server runs the call at
        most once, and the client repeats it after a lost connection. ``idempotent`` says that the call may
        run twice: it is repeated, too. ``attributes`` are the application's: their keys have a dot.

        Raises `Failed`, `Refused`, `Unknown` or `NotSent`. If the task is cancelled, the call is cancelled
        on the server. Raises ``ValueError`` and ``TypeError`` for bad arguments.
        """
        request = asking.call(method, payload, key, idempotent, attributes)
        await self._driver.outcome(request, asking.deadline(deadline))
        assert request.result is not None
        return request.result

    async def call_json(
        self,
        method: str,
        value: Any = None,
        *,
        deadline: float | None = None,
        key: str | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Calls a method with a value as JSON, and returns the value of its reply (section 12.12).

        Raises what `call` raises, and ``ValueError`` if the reply is not JSON: then the handler has run.
        """
        payload = json.dumps(value, ensure_ascii=False, allow_nan=False)
        reply = await self.call(method, payload, deadline=deadline, key=key, idempotent=idempotent)
        return reply.json()

    def stream(
        self,
        method: str,
        payload: Payload = b"",
        *,
        window: int | None = None,
        deadline: float | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Stream:
        """Calls a method with a streamed reply, and returns the items. The request is sent at once.

        ``window`` is how many items the server may send ahead of the application; without it, 32. Without a
        ``deadline`` the stream has none: the server limits the time from item to item.
        """
        self._driver.check_loop()
        request = asking.stream(method, payload, window, attributes)
        return Stream(self._driver, request, asking.deadline(deadline))

    async def one_way(
        self, method: str, payload: Payload = b"", *, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Sends a request that is never answered. Returns when its line was offered to the transport.

        Raises `NotSent` if it was not sent. What becomes of it afterwards nobody is told.
        """
        request = asking.one_way(method, payload, attributes)
        await self._driver.outcome(request, None)

    async def publish(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        deadline: float | None = None,
        key: str | None = None,
    ) -> Published:
        """Publishes a message, and returns where it is in the log of the topic.

        The parameters and errors are those of `call`. A cancelled task does not take the message back.
        """
        request = asking.publish(topic, payload, key)
        await self._driver.outcome(request, asking.deadline(deadline))
        assert request.result is not None
        return request.result

    async def methods(self, *, deadline: float | None = None) -> list[tuple[str, str]]:
        """The methods of the server, each with its line of documentation. The errors are those of `call`."""
        request = asking.methods(self._driver.core.config)
        await self._driver.outcome(request, asking.deadline(deadline))
        return request.result

    async def subscribe(
        self,
        topic: str,
        *,
        start: Position | str | None = None,
        last: int | None = None,
        window: int | None = None,
        slow: Slow | None = None,
        ack: Ack = "auto",
        redeliver: bool = False,
        deadline: float | None = None,
    ) -> Subscription:
        """Subscribes to a topic, and returns its deliveries once the server has accepted.

        Begins behind the newest message, at the position ``start``, or with the ``last`` messages. With a
        ``window`` the server sends at most so many messages beyond what was acknowledged, which happens when
        a message is taken, or with ``ack="hand"`` by `Subscription.ack`. With ``redeliver=True`` acks are by
        hand, and what was taken and not acknowledged comes again on the next connection. ``slow`` says what
        the server does if this client falls behind. ``deadline`` is for the answer of the server.

        Raises `Refused`, `Unknown` or `NotSent`, and ``ValueError`` for bad arguments or if this client
        already listens to the topic.
        """
        self._driver.check_loop()
        config = self._driver.core.config
        handle = asking.subscription(config, topic, start, last, window, slow, ack, redeliver)
        subscription = Subscription(self._driver, handle)
        await subscription.begin(asking.deadline(deadline))
        return subscription


def _context(tls: ssl.SSLContext | bool | None) -> ssl.SSLContext | None:
    if tls is None or isinstance(tls, bool):
        return ssl.create_default_context() if tls else None
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls has to be an ssl.SSLContext or True, not {type(tls).__name__}")
    return tls


class Connect:
    """What `connect` returns: await it for a `Client`, or use it in ``async with``."""

    def __init__(self, *addresses: str, **options: Any) -> None:
        self._addresses = addresses
        self._options = options
        self._client: Client | None = None

    async def _connect(self) -> Client:
        client = Client.start(*self._addresses, **self._options)
        try:
            await client._first_round()
        except BaseException:
            client.abort()
            raise
        return client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._client is not None
        await self._client.__aexit__(kind, error, trace)


def connect(
    *addresses: str,
    token: Credentials | None = None,
    auth: Mapping[str, Credentials] | None = None,
    tls: ssl.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    reconnect: bool = True,
    config: Config | None = None,
) -> Connect:
    """Connects to the first of the addresses that answers: ``await connect(...)``, or ``async with connect(...)``.

    - ``addresses``: ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH``.
    - ``token``: for the scheme ``token``; text, bytes, or a function that returns it before each connection.
    - ``auth``: credentials by scheme.
    - ``tls``: an ``ssl.SSLContext``, or True for ``ssl.create_default_context()``.
    - ``server_hostname``: the name in the certificate; by default the host of the address.
    - ``reconnect``: whether the client connects again by itself, and resumes its subscriptions.

    Raises the `ConnectionFailure` of the last attempt if no address answers; ``ValueError`` for bad arguments.
    Once there was a connection, a client with ``reconnect`` tries for ever.
    """
    return Connect(
        *addresses,
        token=token,
        auth=auth,
        tls=tls,
        server_hostname=server_hostname,
        reconnect=reconnect,
        config=config,
    )

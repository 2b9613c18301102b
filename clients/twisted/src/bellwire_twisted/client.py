"""The client for Twisted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bellwire import (
    Config,
    Connected,
    ConnectionEvent,
    ConnectionFailure,
    Credentials,
    Ended,
    Hello,
    Position,
    Published,
    Reply,
    Stats,
    addresses as addressing,
    credentials,
)
from bellwire.core import asking
from bellwire.core.asking import Ack, Payload, Slow
from bellwire.core.core import Core
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed

from ._driver import Driver, TLSOptions
from ._streaming import OnItem, Reading
from ._subscription import OnDelivery, Subscription


class Client(Service):
    """A client, over all its connections: a service, to be started by itself or by its application.

    - ``addresses``: ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH``; the first that answers is taken.
    - ``token``: for the scheme ``token``; text, bytes, or a function that returns it (or a Deferred of it)
      before each connection.
    - ``auth``: credentials by scheme.
    - ``tls``: True for Twisted's `optionsForClientTLS`, or a function from a host name to such options.
    - ``serverHostname``: the name in the certificate; by default the host of the address.
    - ``reconnect``: whether it connects again by itself, and resumes its subscriptions.
    - ``reactor``: by default the one of the process.

    Raises ``ValueError`` for bad arguments. It is not a `ClientService`, which has one connection at a time:
    behind a ``/bye`` the old connection finishes what it has while new calls begin on the next one.
    """

    def __init__(
        self,
        *addresses: str,
        token: Credentials | None = None,
        auth: Mapping[str, Credentials] | None = None,
        tls: TLSOptions | bool | None = None,
        serverHostname: str | None = None,
        reconnect: bool = True,
        config: Config | None = None,
        reactor: Any = None,
    ) -> None:
        for address in addresses:
            addressing.parse(address)
        secrets = credentials.collect(token, auth)
        self._core = Core(
            addresses,
            config or Config(),
            reconnects=reconnect,
            schemes=tuple(secrets),
            has_fixed_credentials=credentials.are_fixed(secrets),
        )
        if reactor is None:
            from twisted.internet import reactor
        self._driver = Driver(self._core, reactor, secrets, _options(tls), serverHostname)
        self._connecting: list[Deferred[Hello]] = []
        self._ending: list[Deferred[ConnectionFailure]] = []
        self._has_started = False
        self._driver.listeners.append(self._told)

    # The service.

    def startService(self) -> None:
        """Begins to connect. Calls that were made before wait for the connection."""
        if self._has_started or self._core.ended is not None:
            raise RuntimeError("a client is started once: make a new one")
        self._has_started = True
        super().startService()
        self._core.start(self._driver.now())
        self._driver.schedule()

    def stopService(self) -> Deferred[None]:
        """Ends in order: new calls are not sent, those in flight are answered, then the server closes.

        Takes at most ``Config.close_timeout``. Subscriptions end with the reason ``client-closed``.
        """
        super().stopService()
        self._core.close(self._driver.now())
        self._driver.schedule()
        ended: Deferred[None] = self.whenEnded().addCallback(lambda _: None)
        return ended

    def abort(self) -> None:
        """Ends at once: the outcome of calls in flight is unknown."""
        self._core.abort(self._driver.now())
        self._driver.schedule()

    def whenConnected(self) -> Deferred[Hello]:
        """Fires with what the server announced, once there is a connection. Fails if the client ends before."""
        link = self._core.current
        if link is not None and link.hello is not None:
            return succeed(link.hello)
        if self._core.ended is not None:
            return fail(self._core.ended)
        waiting: Deferred[Hello] = Deferred(self._forget)
        self._connecting.append(waiting)
        return waiting

    def whenEnded(self) -> Deferred[ConnectionFailure]:
        """Fires once the client has ended for good, with the reason."""
        if self._core.ended is not None:
            return succeed(self._core.ended)
        waiting: Deferred[ConnectionFailure] = Deferred(self._forget)
        self._ending.append(waiting)
        return waiting

    def _forget(self, cancelled: Deferred[Any]) -> None:
        self._connecting = [one for one in self._connecting if one is not cancelled]
        self._ending = [one for one in self._ending if one is not cancelled]

    @property
    def ended(self) -> ConnectionFailure | None:
        """Why the client has ended for good; ``None`` while it goes on."""
        return self._core.ended

    @property
    def stats(self) -> Stats:
        """What was ignored so far."""
        return self._core.stats

    def onEvent(self, listener: Callable[[ConnectionEvent], object]) -> Callable[[], None]:
        """Calls the listener at each event of the connections. Returns a function that ends this.

        What a listener raises is logged. The last event is `Ended`.
        """
        listeners = self._driver.listeners
        listeners.append(listener)

        def stop() -> None:
            if listener in listeners:
                listeners.remove(listener)

        return stop

    def _told(self, event: ConnectionEvent) -> None:
        # A callback may cancel a Deferred that waits beside its own.
        if isinstance(event, Connected):
            waiting, self._connecting = self._connecting, []
            for one in waiting:
                if not one.called:
                    one.callback(event.hello)
        if isinstance(event, Ended):
            waiting, self._connecting = self._connecting, []
            for one in waiting:
                if not one.called:
                    one.errback(event.error)
            ending, self._ending = self._ending, []
            for ended in ending:
                if not ended.called:
                    ended.callback(event.error)

    # Requests.

    def call(
        self,
        method: str,
        payload: Payload = b"",
        *,
        deadline: float | None = None,
        key: str | None = None,
        idempotent: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> Deferred[Reply]:
        """Calls a method. Fires with the reply, or fails with `Failed`, `Refused`, `Unknown` or `NotSent`.

        ``deadline`` is in seconds, over all attempts, and is told to the server; without it
        ``Config.deadline`` counts, which the server is not told. With a ``key`` the server runs the call at
        most once, and the client repeats it after a lost connection. ``idempotent`` says that the call may
        run twice: it is repeated, too. ``attributes`` are the application's: their keys have a dot.

        Cancelling the Deferred cancels the call on the server. Raises ``ValueError`` and ``TypeError`` for
        bad arguments.
        """
        request = asking.call(method, payload, key, idempotent, attributes)

        def result() -> Reply:
            assert request.result is not None
            return request.result

        return self._driver.request(request, asking.deadline(deadline), result)

    def callJSON(
        self,
        method: str,
        value: Any = None,
        *,
        deadline: float | None = None,
        key: str | None = None,
        idempotent: bool = False,
    ) -> Deferred[Any]:
        """Calls a method with a value as JSON, and fires with the value of its reply (section 12.12).

        Fails with ``ValueError`` if the reply is not JSON: then the handler has run.
        """
        payload = json.dumps(value, ensure_ascii=False, allow_nan=False)
        reply = self.call(method, payload, deadline=deadline, key=key, idempotent=idempotent)
        return reply.addCallback(lambda reply: reply.json())

    def stream(
        self,
        method: str,
        onItem: OnItem,
        payload: Payload = b"",
        *,
        window: int | None = None,
        deadline: float | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Deferred[None]:
        """Calls a method with a streamed reply, and calls ``onItem`` with each item.

        If ``onItem`` returns a Deferred, the next item waits for it, and the server makes at most ``window``
        items ahead (32 by default). Fires behind the last item, or fails with the outcome. A failure of
        ``onItem`` cancels the stream, and is the failure of the Deferred. Cancelling it cancels the stream.
        """
        request = asking.stream(method, payload, window, attributes)
        reading = Reading(self._driver, request, onItem)
        self._core.submit(self._driver.now(), request, asking.deadline(deadline))
        self._driver.schedule()
        return reading.finished

    def oneWay(
        self, method: str, payload: Payload = b"", *, attributes: Mapping[str, str] | None = None
    ) -> Deferred[None]:
        """Sends a request that is never answered. Fires when its line was offered to the transport.

        Fails with `NotSent` if it was not sent. What becomes of it afterwards nobody is told.
        """
        request = asking.one_way(method, payload, attributes)
        return self._driver.request(request, None, lambda: None)

    def publish(
        self,
        topic: str,
        payload: Payload = b"",
        *,
        deadline: float | None = None,
        key: str | None = None,
    ) -> Deferred[Published]:
        """Publishes a message. Fires with where it is in the log of the topic.

        The parameters and failures are those of `call`. Cancelling does not take the message back.
        """
        request = asking.publish(topic, payload, key)

        def result() -> Published:
            assert request.result is not None
            return request.result

        return self._driver.request(request, asking.deadline(deadline), result)

    def methods(self, *, deadline: float | None = None) -> Deferred[list[tuple[str, str]]]:
        """The methods of the server, each with its line of documentation. The failures are those of `call`."""
        request = asking.methods(self._core.config)
        return self._driver.request(request, asking.deadline(deadline), lambda: request.result)

    def subscribe(
        self,
        topic: str,
        onDelivery: OnDelivery,
        *,
        start: Position | str | None = None,
        last: int | None = None,
        window: int | None = None,
        slow: Slow | None = None,
        ack: Ack = "auto",
        redeliver: bool = False,
        deadline: float | None = None,
    ) -> Deferred[Subscription]:
        """Subscribes to a topic. Fires once the server has accepted; ``onDelivery`` is called from then on.

        ``onDelivery`` gets `Message`, `Gap`, `Reset` and, as the last one, `End`. If it returns a Deferred,
        the next delivery waits for it. A failure of it ends the subscription: see `Subscription.finished`.

        Begins behind the newest message, at the position ``start``, or with the ``last`` messages. With a
        ``window`` the server sends at most so many messages beyond what was acknowledged, which happens when
        a message is handed over, or with ``ack="hand"`` by `Subscription.ack`. With ``redeliver=True`` acks
        are by hand, and what was handed over and not acknowledged comes again on the next connection.
        ``slow`` says what the server does if this client falls behind. ``deadline`` is for the answer of the
        server.

        Fails with `Refused`, `Unknown` or `NotSent`. Raises ``ValueError`` for bad arguments, or if this
        client already listens to the topic.
        """
        handle = asking.subscription(
            self._core.config, topic, start, last, window, slow, ack, redeliver
        )
        return Subscription(self._driver, handle, onDelivery).begin(asking.deadline(deadline))


def _options(tls: TLSOptions | bool | None) -> TLSOptions | None:
    if tls is None or tls is False:
        return None
    if tls is not True:
        if not callable(tls):
            raise TypeError(f"tls has to be True or a function for the options, not {type(tls).__name__}")
        return tls
    try:
        from twisted.internet.ssl import optionsForClientTLS
    except ImportError as error:
        raise ValueError("tls=True needs more packages: pip install 'bellwire-twisted[tls]'") from error
    return optionsForClientTLS

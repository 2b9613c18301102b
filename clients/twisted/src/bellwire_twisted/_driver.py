"""The shell of the core for Twisted: endpoints, timers, and Deferreds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from bellwire import ConnectionEvent, ConnectionFailure, Credentials, SilentServer, TransportFailed
from bellwire import addresses, credentials
from bellwire.addresses import TcpAddress
from bellwire.core.core import Core
from bellwire.core.events import Authenticate, Ended, Open
from bellwire.core.requests import Request
from bellwire.core.shell import Shell
from bellwire.core.subscription import Subscription
from bellwire.credentials import Secret
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure

from ._protocol import BellwireProtocol, OneConnection

Result = TypeVar("Result")
#: The connection creator of Twisted for a host, as `optionsForClientTLS` makes them.
TLSOptions = Callable[[str], Any]

_log = Logger()


class Driver(Shell):
    """Does what the core says, and tells it what happens."""

    def __init__(
        self,
        core: Core,
        reactor: Any,
        secrets: Mapping[str, Credentials],
        tls: TLSOptions | None,
        serverHostname: str | None,
    ) -> None:
        super().__init__(core)
        self.reactor = reactor
        self.listeners: list[Callable[[ConnectionEvent], object]] = []
        self._secrets = secrets
        self._tls = tls
        self._serverHostname = serverHostname
        self._attempts: dict[int, Deferred[Any]] = {}
        self._secretsAsked: dict[int, Deferred[Secret]] = {}
        self._protocols: dict[int, BellwireProtocol] = {}
        self._timer: Any = None

    def now(self) -> float:
        return float(self.reactor.seconds())

    def call_soon(self) -> None:
        self.reactor.callLater(0, self.run)

    def set_timer(self, due: float | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if due is not None:
            self._timer = self.reactor.callLater(max(0.0, due - self.now()), self.on_timer)

    # Transports.

    def open(self, output: Open) -> None:
        number = output.number
        # The function for the TLS options is the application's, and may fail.
        attempt = maybeDeferred(self._endpoint, output.address)
        attempt.addCallback(lambda endpoint: endpoint.connect(OneConnection(self, number)))
        self._attempts[number] = attempt
        attempt.addTimeout(output.within, self.reactor, self._too_late)
        attempt.addErrback(self._failed, number, output.address)

    @staticmethod
    def _too_late(failure: Failure, seconds: float) -> Failure:
        return Failure(SilentServer(f"the server did not answer within {seconds:.1f} s"))

    def _endpoint(self, text: str) -> Any:
        address = addresses.parse(text)
        if isinstance(address, TcpAddress):
            endpoint: Any = HostnameEndpoint(self.reactor, address.host, address.port)
            host = self._serverHostname or address.host
        else:
            endpoint = UNIXClientEndpoint(self.reactor, address.path)
            host = self._serverHostname or "localhost"
        return endpoint if self._tls is None else wrapClientTLS(self._tls(host), endpoint)

    def _failed(self, failure: Failure, number: int, address: str) -> None:
        if self._attempts.pop(number, None) is None:
            return  # it was dropped
        error = failure.value
        if not isinstance(error, ConnectionFailure):
            error = TransportFailed(f"cannot connect to {address}: {failure.getErrorMessage()}")
        self.core.open_failed(self.now(), number, error)
        self.run()

    def opened(self, number: int, protocol: BellwireProtocol) -> None:
        self._protocols[number] = protocol
        self.core.opened(self.now(), number)
        self.run()

    def closed(self, number: int, error: ConnectionFailure) -> None:
        if self._protocols.pop(number, None) is not None:
            self.core.lost(self.now(), number, error)
            self.run()

    def write(self, number: int, data: bytes) -> None:
        protocol = self._protocols.get(number)
        if protocol is not None:
            protocol.write(data)

    def close(self, number: int) -> None:
        attempt = self._attempts.pop(number, None)
        protocol = self._protocols.pop(number, None)
        asked = self._secretsAsked.pop(number, None)
        if asked is not None:
            asked.cancel()
        if protocol is not None:
            protocol.close()
        elif attempt is not None:
            attempt.cancel()

    def authenticate(self, output: Authenticate) -> None:
        found = self._secrets[output.scheme]
        secret = self._secretsAsked[output.number] = maybeDeferred(_secret, found)

        def answered(result: Result) -> Result:
            self._secretsAsked.pop(output.number, None)
            return result

        def ready(secret: Secret) -> None:
            encoded = credentials.encode(secret)
            self.core.authenticate(self.now(), output.number, output.scheme, encoded)

        def failed(failure: Failure) -> None:
            why = f"the function for the credentials failed with {type(failure.value).__name__}"
            self.core.no_credentials(self.now(), output.number, why)

        secret.addBoth(answered)
        secret.addCallback(ready)
        secret.addErrback(failed)
        secret.addCallback(lambda _: self.schedule())

    # The application.

    def request(
        self, request: Request, deadline: float | None, result: Callable[[], Result]
    ) -> Deferred[Result]:
        """Submits a request. The Deferred fires with ``result()``, or fails with the outcome."""
        waiting: Deferred[Result] = Deferred(lambda _: self.give_up(request))

        def woken() -> None:
            if request.done and not waiting.called:
                if request.error is not None:
                    waiting.errback(request.error)
                else:
                    waiting.callback(result())

        request.waker = woken
        self.core.submit(self.now(), request, deadline)
        self.schedule()
        return waiting

    def give_up(self, request: Request) -> None:
        self.core.give_up(self.now(), request)
        self.schedule()

    def unsubscribe(self, subscription: Subscription) -> None:
        self.core.unsubscribe(self.now(), subscription)
        self.schedule()

    def round_failed(self, error: ConnectionFailure) -> None:
        """The attempts were told as events."""

    def tell(self, event: ConnectionEvent) -> None:
        for listener in list(self.listeners):
            if listener not in self.listeners:
                continue  # an earlier listener has removed it
            try:
                listener(event)
            except Exception:
                _log.failure("a listener for the events of a connection failed")
        if isinstance(event, Ended):
            self.listeners.clear()


def _secret(found: Credentials) -> Deferred[Secret]:
    secret = found() if callable(found) else found
    if isinstance(secret, Deferred):
        return secret
    if inspect.iscoroutine(secret):
        return ensureDeferred(secret)
    if isinstance(secret, Awaitable):
        raise TypeError("a function for credentials returns text, bytes, a Deferred or a coroutine")
    return succeed(secret)

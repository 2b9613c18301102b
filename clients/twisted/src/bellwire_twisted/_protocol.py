"""The transport: a `LineOnlyReceiver` that hands its lines to the core."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from bellwire import TransportFailed, addresses
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from ._driver import Driver

#: How long a transport may take to write what it holds, once it was closed.
_LINGER = 5.0


@implementer(IPushProducer)
class BellwireProtocol(LineOnlyReceiver):
    """One connection. It produces nothing by itself: as a producer it learns when its transport is full."""

    delimiter = b"\n"

    def __init__(self, driver: Driver, number: int) -> None:
        self._driver = driver
        self._number = number
        self._linger: Any = None

    @property
    def MAX_LENGTH(self) -> int:  # type: ignore[override]  # it is the limit of this connection
        """The longest line, without its LF."""
        return self._driver.core.max_line(self._number) - 1

    def connectionMade(self) -> None:
        connected = getattr(self.transport, "socket", None)
        if isinstance(connected, socket.socket):
            addresses.tune(connected)
        self._bytes.registerProducer(self, True)
        self._driver.opened(self._number, self)

    def dataReceived(self, data: bytes) -> None:
        if self._linger is not None:
            return  # TLS reads on until the other end has closed, too
        self._driver.core.heard(self._driver.now(), self._number)
        super().dataReceived(data)
        self._driver.run()

    def lineReceived(self, line: bytes) -> None:
        self._driver.core.received_line(self._driver.now(), self._number, line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._driver.core.line_too_long(self._driver.now(), self._number)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        error = TransportFailed(f"the connection was lost: {reason.getErrorMessage()}")
        self._driver.closed(self._number, error)

    def close(self) -> None:
        """Closes the transport behind what was written, or after some seconds in any case."""
        self._bytes.unregisterProducer()
        self._bytes.loseConnection()
        self._linger = self._driver.reactor.callLater(_LINGER, self._bytes.abortConnection)

    def write(self, data: bytes) -> None:
        """Hands bytes to the transport."""
        self._bytes.write(data)

    @property
    def _bytes(self) -> Any:
        """The transport. Its interfaces are not known to type checkers."""
        return self.transport

    # IPushProducer.

    def pauseProducing(self) -> None:
        self._driver.core.writable(self._driver.now(), self._number, False)

    def resumeProducing(self) -> None:
        self._driver.core.writable(self._driver.now(), self._number, True)
        self._driver.schedule()

    def stopProducing(self) -> None:
        pass


class OneConnection(Factory):
    """Makes the protocol of an attempt to connect."""

    noisy = False

    def __init__(self, driver: Driver, number: int) -> None:
        self._driver = driver
        self._number = number

    def buildProtocol(self, addr: IAddress | None) -> BellwireProtocol:
        return BellwireProtocol(self._driver, self._number)

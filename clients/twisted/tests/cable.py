"""A relay in front of a server, with Twisted: the tests cut its connections, and give it TLS."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.python.failure import Failure

reactor: Any = the_reactor


class _Server(ProxyServer):
    factory: _Factory

    def connectionMade(self) -> None:
        self.factory.cable.connections.append(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.cable.connections.remove(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        self.factory.cable.written += data
        super().dataReceived(data)


class _ClientFactory(ProxyClientFactory):
    noisy = False


class _Factory(ProxyFactory):
    protocol = _Server
    noisy = False
    cable: Cable


_Server.clientProtocolFactory = _ClientFactory


class Cable:
    """Copies bytes to a server, and records what the client wrote."""

    def __init__(self, target: str, *, path: str | None = None, tls: Any = None) -> None:
        host, port = target.rsplit(":", 1)
        self.written = bytearray()
        self.connections: list[Any] = []
        factory = _Factory(host, int(port))
        factory.cable = self
        if path is not None:
            self._port = reactor.listenUNIX(path, factory)
            self.address = f"unix:{path}"
            return
        if tls is not None:
            self._port = reactor.listenSSL(0, factory, tls, interface="127.0.0.1")
        else:
            self._port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.address = f"127.0.0.1:{self._port.getHost().port}"

    def cut(self) -> None:
        """Ends all connections at once."""
        for connection in list(self.connections):
            connection.transport.abortConnection()

    def stop(self) -> Deferred[Any]:
        self.cut()
        return maybeDeferred(self._port.stopListening)

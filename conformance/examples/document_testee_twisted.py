"""A testee (TESTEE.md) for the clients that the protocol's documents print, with Twisted.

    python3 conformance/examples/document_testee_twisted.py FOLDER [L0|L1]

FOLDER has the printed blocks, each as a file: tw.py of PROTOCOL.md for L0, bellwire.py and
bellwire_twisted.py of docs/protocol/python-client.md for L1. What the testee does is in
document_testee.py. scripts/clients.sh installs Twisted and runs both.
"""

import sys

from document_testee import Testee, level, of_level_0, read_commands
from twisted.internet import endpoints, reactor


def connect(host, port, opened, event, closed):
    if level() == "L0":
        from tw import Bellwire

        opened, event = of_level_0(opened, event)
    else:
        from bellwire_twisted import Bellwire

    class Client(Bellwire):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            closed()

    endpoint = endpoints.TCP4ClientEndpoint(reactor, host, port)
    connected = endpoints.connectProtocol(endpoint, Client(opened, event))
    connected.addErrback(lambda _: closed())


def then(reply, callback):
    # A reply that was cancelled ends with an error, which nobody waits for.
    reply.addCallbacks(callback, lambda _: None)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    reactor.callWhenRunning(
        read_commands, Testee(connect, then, reactor.callLater), reactor.callFromThread
    )
    reactor.run()

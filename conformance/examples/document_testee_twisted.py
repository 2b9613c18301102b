"""A testee (TESTEE.md) for the client that PROTOCOL.md prints, with Twisted.

    python3 conformance/examples/document_testee_twisted.py FOLDER

FOLDER has the blocks bellwire.py and tw.py of section 10, each as a file. What the testee does is
in document_testee.py. scripts/clients.sh installs Twisted and runs both.
"""

import sys

from document_testee import Testee, read_commands
from twisted.internet import endpoints, reactor


def connect(host, port, opened, event, closed):
    import tw

    class Client(tw.Bellwire):
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

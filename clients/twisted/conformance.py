"""The testee of the Twisted client for the conformance kit (conformance/TESTEE.md).

    bellwire-conformance run client -- python3 clients/twisted/conformance.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import bellwire
from bellwire import Position, Reply
from bellwire_twisted import Client, Subscription
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from testee import ABILITIES, Command, config, report, report_delivery, report_failure, with_payload  # noqa: E402

reactor: Any = the_reactor


def report_outcome(failure: Failure, tag: str) -> None:
    """Reports an outcome that is no reply. A call that was given up has none."""
    if isinstance(failure.value, bellwire.CallError):
        report_failure(tag, failure.value)
    elif not isinstance(failure.value, CancelledError):
        failure.raiseException()


class Reader:
    """A stream, of which an item is handled when the runner takes it."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._takes = 0
        self._item: tuple[bytes, Deferred[None]] | None = None
        self._outcome: Callable[[], None] | None = None

    def on_item(self, item: bytes) -> Deferred[None]:
        handled: Deferred[None] = Deferred()
        self._item = item, handled
        self._tell()
        return handled

    def on_end(self, _: object) -> None:
        self._outcome = lambda: report(f"{self._tag} end")
        self._tell()

    def on_failure(self, failure: Failure) -> None:
        self._outcome = lambda: report_outcome(failure, self._tag)
        self._tell()

    def take(self) -> None:
        self._takes += 1
        self._tell()

    def _tell(self) -> None:
        if self._takes == 0:
            return
        if self._item is not None:
            (item, handled), self._item = self._item, None
            self._takes -= 1
            report(with_payload(f"{self._tag} item", item))
            handled.callback(None)
        elif self._outcome is not None:
            self._takes -= 1
            self._outcome()


class Testee:
    """Obeys commands."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._calls: dict[str, Deferred[Any]] = {}
        self._readers: dict[str, Reader] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._was_connected = False
        self._is_closing = False

    @property
    def client(self) -> Client:
        assert self._client is not None, "there was no connect"
        return self._client

    def obey(self, line: bytes) -> None:
        command = Command(line)
        getattr(self, "_" + command.word.replace("-", "_"))(command)

    # The connection.

    def _connect(self, command: Command) -> None:
        addresses = command.rest.decode().split(" ")
        auth = None
        if "auth" in command.options:
            scheme, _, secret = command.options["auth"].partition(":")
            auth = {scheme: secret}
        reconnect = "reconnect" in command.options
        self._client = Client(*addresses, auth=auth, reconnect=reconnect, config=config(command))
        self._client.startService()
        self._client.whenConnected().addCallbacks(self._is_connected, lambda _: None)
        self._client.whenEnded().addCallback(self._has_ended)

    def _is_connected(self, _: object) -> None:
        self._was_connected = True
        report("connected")

    def _has_ended(self, _: object) -> None:
        report("closed" if self._is_closing else "disconnected" if self._was_connected else "failed")

    def _close(self, command: Command) -> None:
        self._is_closing = True
        self.client.stopService()

    def _counts(self, command: Command) -> None:
        stats = self.client.stats
        report(f"counts {stats.doubled_replies + stats.unasked_replies} {stats.violations}")

    # Requests.

    def _request(self, tag: str, asked: Deferred[Any], told: Callable[[Any], object]) -> None:
        self._calls[tag] = asked
        asked.addCallback(told)
        asked.addErrback(report_outcome, tag)

    def _call(self, command: Command) -> None:
        tag, method = command.next(), command.next()

        def replied(reply: Reply) -> None:
            after = f";after={reply.after.topic}:{reply.after.position}" if reply.after else ""
            report(with_payload(f"{tag} reply{after}", reply.payload))

        asked = self.client.call(
            method,
            command.rest,
            deadline=command.seconds("deadline"),
            key=command.options.get("key"),
            attributes=command.attributes,
        )
        self._request(tag, asked, replied)

    def _one_way(self, command: Command) -> None:
        sent = self.client.oneWay(command.next(), command.rest, attributes=command.attributes)
        sent.addErrback(lambda failure: failure.trap(bellwire.NotSent) and None)

    def _cancel(self, command: Command) -> None:
        self._calls.pop(command.next()).cancel()

    def _publish(self, command: Command) -> None:
        tag, topic = command.next(), command.next()
        asked = self.client.publish(topic, command.rest, key=command.options.get("key"))
        self._request(tag, asked, lambda done: report(f"{tag} published {done.epoch}:{done.sequence}"))

    def _methods(self, command: Command) -> None:
        tag = command.next()

        def listed(methods: list[tuple[str, str]]) -> None:
            for name, doc in methods:
                report(with_payload(f"{tag} item {name}", doc.encode()))
            report(f"{tag} end")

        self._request(tag, self.client.methods(), listed)

    def _stream(self, command: Command) -> None:
        tag, method = command.next(), command.next()
        reader = self._readers[tag] = Reader(tag)
        read = self.client.stream(method, reader.on_item, command.rest, window=command.number("window"))
        self._calls[tag] = read
        read.addCallbacks(reader.on_end, reader.on_failure)

    def _take(self, command: Command) -> None:
        self._readers[command.next()].take()

    # Subscriptions.

    def _subscribe(self, command: Command) -> None:
        tag, topic = command.next(), command.next()

        def subscribed(subscription: Subscription) -> None:
            self._subscriptions[tag] = subscription
            report(f"{tag} subscribed {subscription.position}")

        asked = self.client.subscribe(
            topic,
            lambda delivery: report_delivery(tag, delivery),
            start=command.options.get("from"),
            window=command.number("window"),
            slow=cast("Literal['gap', 'latest', 'close'] | None", command.options.get("slow")),
            ack="hand" if "ack" in command.options else "auto",
            redeliver="redeliver" in command.options,
        )
        self._request(tag, asked, subscribed)

    def _unsubscribe(self, command: Command) -> None:
        tag = command.next()
        self._subscriptions[tag].unsubscribe()
        report(f"{tag} left")

    def _pause(self, command: Command) -> None:
        self._subscriptions[command.next()].pause()

    def _resume(self, command: Command) -> None:
        self._subscriptions[command.next()].resume()

    def _ack(self, command: Command) -> None:
        self._subscriptions[command.next()].ack(Position.parse(command.next()))

    def _await(self, command: Command) -> None:
        tag, subscription = command.next(), self._subscriptions[command.next()]
        seen = subscription.seen(Position.parse(command.next()))
        seen.addCallback(lambda _: report(f"{tag} satisfied"))


def read() -> None:
    testee = Testee()
    for line in sys.stdin.buffer:
        reactor.callFromThread(testee.obey, line.rstrip(b"\n"))
    os._exit(0)  # at once, whatever the client is doing


if __name__ == "__main__":
    report(ABILITIES)
    reactor.callInThread(read)
    reactor.run()

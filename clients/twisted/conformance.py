"""The testee of the Twisted client for the conformance kit (conformance/TESTEE.md).

    bellwire-conformance run client -- python3 clients/twisted/conformance.py
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, cast

import bellwire
from bellwire import Config, End, Gap, Message, Position, Reply, Reset
from bellwire_twisted import Client, Subscription
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

reactor: Any = the_reactor

ABILITIES = (
    "testee L3 ack-by-hand addresses after attributes auth cancel counts deadline from in-flight keys "
    "max-line methods one-way pause probe publish redeliver repeat resend resubscribe strict streams window"
)


def report(event: bytes | str) -> None:
    """Writes an event, escaped."""
    data = event.encode() if isinstance(event, str) else event
    shown = (chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in data)
    sys.stdout.write("".join(shown) + "\n")
    sys.stdout.flush()


def with_payload(head: str, payload: bytes) -> bytes:
    return head.encode() + (b" " + payload if payload else b"")


def report_failure(failure: Failure, tag: str) -> None:
    """Reports an outcome that is no reply. A call that was given up has none."""
    match failure.value:
        case CancelledError():
            pass
        case bellwire.Failed(code=code):
            report(f"{tag} error {code}")
        case bellwire.Refused(code=code):
            report(f"{tag} refused {code}")
        case bellwire.NotSent():
            report(f"{tag} not-sent")
        case bellwire.Unknown():
            report(f"{tag} unknown")
        case _:
            failure.raiseException()


class Command:
    """A command line taken apart."""

    def __init__(self, line: bytes) -> None:
        line = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), line)
        head, _, self.rest = line.partition(b" ")
        self.word, *options = head.decode().split(";")
        self.options = dict(option.split("=", 1) for option in options)

    def next(self) -> str:
        word, _, self.rest = self.rest.partition(b" ")
        return word.decode()

    def number(self, key: str) -> int | None:
        return int(self.options[key]) if key in self.options else None

    def seconds(self, key: str) -> float | None:
        return int(self.options[key]) / 1000 if key in self.options else None

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the application."""
        return {key: value for key, value in self.options.items() if "." in key}


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
        self._outcome = lambda: report_failure(failure, self._tag)
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
        self._client = Client(*addresses, auth=auth, reconnect=reconnect, config=_config(command))
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
        asked.addErrback(report_failure, tag)

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
            lambda delivery: _tell(tag, delivery),
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


def _tell(tag: str, delivery: bellwire.Delivery) -> None:
    match delivery:
        case Message():
            word = "again" if delivery.redelivered else "message"
            report(with_payload(f"{tag} {word} {delivery.sequence}", delivery.payload))
        case Gap():
            report(f"{tag} gap {delivery.first} {delivery.last} {delivery.reason}")
        case Reset():
            report(f"{tag} reset {delivery.position}")
        case End():
            at = f" {delivery.position}" if delivery.position else ""
            report(f"{tag} ended {delivery.reason}{at}")


def _config(command: Command) -> Config:
    limits: dict[str, Any] = {}
    if "strict" in command.options:
        limits["strict"] = True
    for option, name in (("max-line", "max_line"), ("in-flight", "in_flight")):
        if option in command.options:
            limits[name] = command.number(option)
    if "probe" in command.options:
        limits["probe"] = command.seconds("probe")
    return Config(**limits)


def read() -> None:
    testee = Testee()
    for line in sys.stdin.buffer:
        reactor.callFromThread(testee.obey, line.rstrip(b"\n"))
    os._exit(0)  # at once, whatever the client is doing


if __name__ == "__main__":
    report(ABILITIES)
    reactor.callInThread(read)
    reactor.run()

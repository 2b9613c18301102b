"""A core on a clock that the test moves, with the server's lines written by the test."""

from __future__ import annotations

import random

from bellwire import Config, TransportFailed
from bellwire.core.core import Core
from bellwire.core.events import Authenticate, Close, ConnectionEvent, Happened, Open, Output, Write
from bellwire.core.inbox import Inbox
from bellwire.core.requests import Call
from bellwire.core.subscription import Subscription, Terms


class Bench:
    """Drives a core. Connections are numbered from 1 in the order of their attempts."""

    def __init__(self, config: Config | None = None, *addresses: str, reconnects: bool = True) -> None:
        self.config = config or Config()
        rng = random.Random(7)
        self.core = Core(addresses or ("a:1",), self.config, reconnects=reconnects, rng=rng)
        self.now = 100.0
        self.opens: list[Open] = []
        self.closed: list[int] = []
        self.events: list[ConnectionEvent] = []
        self._written: dict[int, bytes] = {}

    def settle(self) -> None:
        """Does what the core says."""
        while outputs := self.core.outputs(self.now):
            for output in outputs:
                self._do(output)
        self.core.woken()

    def _do(self, output: Output) -> None:
        match output:
            case Write(number=number, data=data):
                self._written[number] = self._written.get(number, b"") + data
            case Open():
                self.opens.append(output)
            case Close(number=number):
                self.closed.append(number)
            case Happened(event=event):
                self.events.append(event)
            case Authenticate(number=number, scheme=scheme):
                self.core.authenticate(self.now, number, scheme, b"secret")

    def connect(self, hello: str = "", number: int = 1) -> None:
        """The transport of an attempt opens, and the server says hello."""
        if number == 1 and not self.opens:
            self.core.start(self.now)
            self.settle()
        self.core.opened(self.now, number)
        self.say(f"* /hello;version=1{hello}", number=number)

    def say(self, *lines: str, number: int = 1) -> None:
        """The server writes lines."""
        self.core.received(self.now, number, "".join(line + "\n" for line in lines).encode())
        self.settle()

    def lose(self, number: int = 1) -> None:
        """The connection is lost."""
        self.core.lost(self.now, number, TransportFailed("cut"))
        self.settle()

    def block(self, is_blocked: bool = True, number: int = 1) -> None:
        """The transport takes no more bytes, or takes them again."""
        self.core.writable(self.now, number, not is_blocked)
        self.settle()

    def advance(self, seconds: float) -> None:
        """Time passes; timers fire when they are due."""
        end = self.now + seconds
        while (due := self.core.due()) <= end:
            self.now = max(self.now, due)
            self.core.timer(self.now)
            self.settle()
        self.now = end

    def written(self, number: int = 1) -> list[str]:
        """The lines that the core wrote since the last time."""
        return self._written.pop(number, b"").decode().splitlines()

    def call(
        self, method: str = "m", payload: str = "", deadline: float | None = None, idempotent: bool = False
    ) -> Call:
        call = Call(method, payload.encode())
        call.idempotent = idempotent
        self.core.submit(self.now, call, deadline)
        self.settle()
        return call

    def subscribe(
        self, topic: str = "t", terms: Terms | None = None, deadline: float | None = None
    ) -> Subscription:
        inbox = Inbox(self.config.inbox_items, self.config.inbox_bytes)
        subscription = Subscription(topic, terms or Terms(), inbox)
        self.core.subscribe(self.now, subscription, deadline)
        self.settle()
        return subscription

    def take_all(self, subscription: Subscription) -> list[object]:
        """Everything that waits for the application."""
        found: list[object] = []
        while (delivery := self.core.take(self.now, subscription)) is not None:
            found.append(delivery)
        self.settle()
        return found

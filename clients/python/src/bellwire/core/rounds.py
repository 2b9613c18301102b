"""Connecting: a round tries all addresses, and takes the first that answers (sections 14.1 and 14.2)."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import AuthenticationFailed, ConnectionFailure, SilentServer, TransportFailed
from .backoff import Backoff
from .events import Close, ConnectFailed, Connecting, Happened, Open, RoundFailed

if TYPE_CHECKING:
    from .core import Core

#: How long an attempt may take before the next address is tried beside it (RFC 8305).
_STAGGER = 0.25
#: Connections that a client is leaving, at most.
_LEAVING_LINKS = 4


@dataclass(slots=True, eq=False)
class Address:
    text: str
    #: When its server may be asked again.
    not_before: float = 0.0
    #: Its server refused the credentials for good.
    is_refused: bool = False


class Rounds:
    """The attempts to connect. At most one round runs at a time."""

    def __init__(self, core: Core, addresses: Sequence[str], config: Config, rng: random.Random) -> None:
        self._core = core
        self._config = config
        self.addresses = [Address(text) for text in addresses]
        self._backoff = Backoff(config, rng)
        self._first = 0
        self._attempts = 0
        self._numbers = 0
        #: When the next round begins.
        self.begins_at = math.inf
        self._since = math.inf
        # The round in progress.
        self.is_running = False
        self._pending: deque[Address] = deque()
        self._opening: dict[int, Address] = {}
        self._greeting: tuple[int, Address] | None = None
        self._ends_at = math.inf
        self._staggers_at = math.inf
        self._greets_until = math.inf
        self._error: ConnectionFailure = TransportFailed("no address could be tried")

    def due(self) -> float:
        """When `tick` has something to do."""
        if self.is_running:
            return min(self._ends_at, self._staggers_at, self._greets_until)
        return min(self.begins_at, self._since + self._config.give_up_after)

    def begin_at_once(self, now: float) -> None:
        """The first round of a client's life needs no pause."""
        self.begins_at = self._since = now

    def begin_row(self, now: float, held: float) -> None:
        """The connection in use is lost, or its server said ``/bye``."""
        self._attempts = 0
        self._since = now
        self._backoff.begin_row(now, held)
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        self.begins_at = self._backoff.next(now, min(one.not_before for one in self.addresses))

    def stop(self) -> None:
        """No connection is needed any more."""
        self.begins_at = self._since = math.inf
        self._drop_all()

    def tick(self, now: float) -> None:
        if not self.is_running:
            if now >= self._since + self._config.give_up_after:
                self._core.end(now, self._error)
            elif now >= self.begins_at:
                self._begin(now)
        elif now >= self._ends_at:
            self._fail(now, SilentServer("no server answered in time"))
        elif self._greeting and now >= self._greets_until:
            self._core.link_over(now, self._greeting[0], SilentServer("the server did not say hello in time"))
        elif now >= self._staggers_at:
            self._open_next(now)

    def _begin(self, now: float) -> None:
        if len(self._core.links) >= _LEAVING_LINKS:
            self._backoff.begin_row(now, 0)
            return self._schedule(now)
        self.begins_at = math.inf
        in_order = self.addresses[self._first :] + self.addresses[: self._first]
        self._pending = deque(one for one in in_order if one.not_before <= now)
        if not self._pending:
            return self._schedule(now)
        self.is_running = True
        self._ends_at = now + self._config.connect_timeout
        self._open_next(now)

    def _open_next(self, now: float) -> None:
        address = self._pending.popleft()
        self._numbers += 1
        self._attempts += 1
        self._opening[self._numbers] = address
        self._staggers_at = now + _STAGGER if self._pending else math.inf
        self._core.put(Happened(Connecting(address.text, self._attempts)))
        self._core.put(Open(self._numbers, address.text, self._ends_at - now))

    def address_of(self, number: int) -> Address | None:
        """The address of an attempt whose transport is not open yet."""
        return self._opening.get(number)

    def opened(self, now: float, number: int) -> bool:
        """A transport is open. Returns whether it is the one to go on with."""
        address = self._opening.pop(number)
        if self._greeting is not None:
            self._pending.append(address)
            return False
        self._greeting = (number, address)
        self._pending.extendleft(reversed(self._opening.values()))
        self._drop_opening()
        self._staggers_at = math.inf
        self._greets_until = now + (self._ends_at - now) / (1 + len(self._pending))
        return True

    def failed(self, now: float, number: int, error: ConnectionFailure) -> None:
        """An attempt failed, before or behind the opening of its transport."""
        address = self._opening.pop(number, None)
        if self._greeting and self._greeting[0] == number:
            address, self._greeting, self._greets_until = self._greeting[1], None, math.inf
        if address is None or not self.is_running:
            return
        self._error = error
        if isinstance(error, AuthenticationFailed):
            address.is_refused = self._core.is_refused_for_good(error)
            address.not_before = now + (error.retry or 0.0)
        self._core.put(Happened(ConnectFailed(address.text, error)))
        if self._pending:
            self._open_next(now)
        elif not self._opening and self._greeting is None:
            self._fail(now, error)

    def succeeded(self, number: int) -> None:
        """The server is ready: this connection is the one in use."""
        assert self._greeting and self._greeting[0] == number
        address = self._greeting[1]
        address.is_refused = False
        self._greeting = None
        self._first = (self.addresses.index(address) + 1) % len(self.addresses)
        self._since = math.inf
        self._drop_all()

    def _fail(self, now: float, error: ConnectionFailure) -> None:
        self._drop_all()
        self._core.put(RoundFailed(error))
        if not self._core.reconnects or all(one.is_refused for one in self.addresses):
            return self._core.end(now, error)
        self._schedule(now)

    def _drop_all(self) -> None:
        self.is_running = False
        self._pending.clear()
        self._drop_opening()
        greeting, self._greeting = self._greeting, None
        if greeting:
            self._core.drop_greeting(greeting[0])
        self._ends_at = self._staggers_at = self._greets_until = math.inf

    def _drop_opening(self) -> None:
        for number in self._opening:
            self._core.put(Close(number))
        self._opening.clear()

"""One connection: its ids, its table of requests, and the lines that are not yet offered to the transport."""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from .grammar import DEFAULT_MAX_LINE
from .hello import Hello
from .lines import Splitter, encode
from .requests import OneWay, Request
from .subscription import Subscription


class Phase(enum.IntEnum):
    """How far a connection is (section 18.7)."""

    GREETING = 0
    AUTHENTICATING = 1
    OPEN = 2
    #: The server said ``/bye``, or this end ``/quit``: nothing new begins here.
    LEAVING = 3
    #: The server said ``/bye;last=N``: no request is sent any more.
    LEFT = 4
    CLOSED = 5


class Kind(enum.Enum):
    """What a request with an id is for."""

    REQUEST = "a request of the application"
    HELLO = "/hello"
    AUTH = "/auth"
    SUBSCRIBE = "/subscribe"
    UNSUBSCRIBE = "/unsubscribe"
    RENEW = "/renew"
    QUIT = "/quit"


@dataclass(slots=True, eq=False)
class Entry:
    """A request that waits for its terminal line."""

    id: int
    kind: Kind
    request: Request | None = None
    subscription: Subscription | None = None
    is_offered: bool = False
    #: A tombstone: the caller is gone.
    is_dead: bool = False
    #: The topics that ``more`` lines of a ``/renew`` have listed.
    listed: set[str] | None = None


@dataclass(slots=True, eq=False)
class OutLine:
    """A line that is not yet offered."""

    data: bytes
    entry: Entry | None = None
    one_way: OneWay | None = None


class Link:
    """A connection, from the moment when its transport is open."""

    def __init__(self, number: int, address: str, max_line: int, now: float) -> None:
        self.number = number
        self.address = address
        self.splitter = Splitter(max_line)
        self.phase = Phase.GREETING
        self.hello: Hello | None = None
        self.last_id = 0
        self.table: dict[int, Entry] = {}
        self.places_taken = 0
        #: Subscriptions that were asked for here and have not ended, those that are being left included.
        self.topics: dict[str, Subscription] = {}
        self.bye_last: int | None = None
        self.bye_reason: str | None = None
        self.has_quit = False
        self.opened_at = math.inf
        #: What the server was asked for before the connection is ready: /hello, /auth.
        self.awaited: set[Kind] = set()
        # Keep-alive: see keepalive.py.
        self.heard_at = now
        self.busy_since: float | None = None
        self.renew_at = math.inf
        self.first_line_at = math.inf
        self.probe: Entry | None = None
        self.probed_at = math.inf
        self.quit_by = math.inf
        self.unanswered_renewals = 0
        self.lists_in_lines = False
        self.cannot_list = False
        #: Lines for the transport.
        self.is_writable = True
        self._out: deque[OutLine] = deque()
        self.out_bytes = 0
        self._acks: dict[str, OutLine] = {}
        self._credit: dict[int, tuple[OutLine, int]] = {}

    @property
    def max_line(self) -> int:
        """The longest line that the server reads."""
        return self.hello.max_line if self.hello else DEFAULT_MAX_LINE

    @property
    def is_open(self) -> bool:
        """Whether requests of the application begin here."""
        return self.phase is Phase.OPEN

    @property
    def takes_requests(self) -> bool:
        """Whether any request may be sent here."""
        return self.phase in (Phase.OPEN, Phase.LEAVING) and not self.has_quit

    @property
    def lease(self) -> float:
        """The lesser of the lease and the limit on silence (C4.4)."""
        assert self.hello
        return min(self.hello.lease, self.hello.idle or math.inf)

    # Sending.

    def fits(self, method: str, attributes: Mapping[str, str], body: bytes) -> bool:
        """Whether a line with the greatest id is within the server's ``max-line`` (C2.2)."""
        return len(encode(self.last_id + 1, method, attributes, body)) <= self.max_line

    def send(
        self,
        kind: Kind,
        method: str,
        body: bytes = b"",
        attributes: Mapping[str, str] | None = None,
        request: Request | None = None,
        subscription: Subscription | None = None,
    ) -> Entry:
        """Takes the next id, and queues the line."""
        self.last_id += 1
        entry = Entry(self.last_id, kind, request, subscription)
        self.table[entry.id] = entry
        if request is not None and request.takes_place:
            self.places_taken += 1
        self._queue(OutLine(encode(entry.id, method, attributes or {}, body), entry))
        return entry

    def send_one_way(self, one_way: OneWay) -> None:
        """Queues a one-way request of the application."""
        line = encode(None, one_way.method, one_way.attributes, one_way.body)
        self._queue(OutLine(line, one_way=one_way))

    def cancel(self, id: int) -> None:
        """Queues a ``/cancel``."""
        self._queue(OutLine(encode(None, "/cancel", {}, b"%d" % id)))

    def ack(self, topic: str, position: str) -> None:
        """Queues an ack, in the place of one of the topic that is not yet offered."""
        data = encode(None, "/ack", {}, f"{topic} {position}".encode())
        line = self._acks.get(topic)
        if line is None:
            self._acks[topic] = line = OutLine(b"")
            self._queue(line)
        self._replace(line, data)

    def give_credit(self, id: int, items: int) -> None:
        """Queues a ``/more``, together with one of the id that is not yet offered."""
        line, before = self._credit.get(id, (None, 0))
        if line is None:
            line = OutLine(b"")
            self._queue(line)
        self._credit[id] = (line, before + items)
        self._replace(line, encode(None, "/more", {}, b"%d %d" % (id, before + items)))

    def _queue(self, line: OutLine) -> None:
        self._out.append(line)
        self.out_bytes += len(line.data)

    def _replace(self, line: OutLine, data: bytes) -> None:
        self.out_bytes += len(data) - len(line.data)
        line.data = data

    def take_back(self, entry: Entry) -> None:
        """Takes a line that is not offered out of the queue, with its entry and its place."""
        line = next(line for line in self._out if line.entry is entry)
        self._out.remove(line)
        self.out_bytes -= len(line.data)
        self.remove(entry)

    def remove(self, entry: Entry) -> None:
        """Removes an entry, and frees its place."""
        del self.table[entry.id]
        if entry.request is not None and entry.request.takes_place:
            self.places_taken -= 1

    def unoffered_one_ways(self) -> list[OneWay]:
        """One-way requests whose lines are not offered. They leave the queue."""
        found = [line for line in self._out if line.one_way is not None]
        for line in found:
            self._out.remove(line)
            self.out_bytes -= len(line.data)
        return [line.one_way for line in found if line.one_way]

    def drop_one_way(self, request: Request) -> None:
        """Takes a one-way request out of the queue, if it is still there."""
        for line in self._out:
            if line.one_way is request:
                self._out.remove(line)
                self.out_bytes -= len(line.data)
                return

    def offer(self) -> list[OutLine]:
        """All lines that wait, if the transport takes them now. They count as offered."""
        if not self.is_writable or not self._out:
            return []
        lines = list(self._out)
        self._out.clear()
        self._acks.clear()
        self._credit.clear()
        self.out_bytes = 0
        for line in lines:
            if line.entry is not None:
                line.entry.is_offered = True
        return lines

    def unmatched(self, id: int) -> str:
        """The kind of a reply without an entry (section 12.5)."""
        return "doubled" if id <= self.last_id and id not in self.table else "unasked"

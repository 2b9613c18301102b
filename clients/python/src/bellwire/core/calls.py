"""Requests of the application: waiting, sending, outcomes, and sending again (sections 3, 12, 14 and 23)."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import CallError, ConnectionFailure, Failed, NotSent, Refused, Unknown
from ..values import MAX_NUMBER
from .backoff import pause
from .grammar import MAX_ATTRIBUTES, MAX_HEAD
from .lines import ReplyLine, encode
from .link import Entry, Kind, Link, OutLine
from .requests import Methods, OneWay, Publish, Request, Stream

if TYPE_CHECKING:
    from .core import Core

#: Room for an id, a `ttl` and a key in the head of a request.
_HEAD_ROOM = 340


class Calls:
    """The requests of a client, over all its connections."""

    def __init__(self, core: Core, config: Config, rng: random.Random) -> None:
        self._core = core
        self._config = config
        self._rng = rng
        self._waiting: OrderedDict[Request, None] = OrderedDict()
        self._waiting_bytes = 0
        self._count = itertools.count()
        #: Requests that are sent again later, and those that have a deadline. The entries of requests that
        #: are done are dropped late.
        self._delayed: list[tuple[float, int, Request]] = []
        self._deadlines: list[tuple[float, int, Request]] = []
        self._open_deadlines = 0

    # The application.

    def submit(self, now: float, request: Request, deadline: float | None) -> None:
        """Takes a request. Raises ``ValueError`` if its head is too long."""
        _check_head(request)
        request.tells_deadline = deadline is not None and math.isfinite(deadline)
        seconds = self._config.deadline if deadline is None else deadline
        if isinstance(request, Stream) and deadline is None:
            seconds = math.inf
        request.deadline = now + seconds
        if seconds <= 0:
            return self._settle(request, NotSent("deadline", "nothing was left of the deadline"))
        if not self._core.may_send:
            return self._settle(request, NotSent("closed", self._core.why_ended()))
        if self._is_full(request):
            return self._settle(request, NotSent("waiting", "too many calls wait to be sent"))
        self._wait(request)
        if math.isfinite(request.deadline):
            self._push_deadline(request)

    def _is_full(self, request: Request) -> bool:
        count = len(self._waiting) + len(self._delayed)
        is_long = self._waiting_bytes + len(request.body) > self._config.waiting_bytes
        return count >= self._config.waiting_calls or (count > 0 and is_long)

    def give_up(self, request: Request) -> None:
        """The caller is gone. The request is cancelled; it has no outcome."""
        if not request.done:
            request.done = True
            self._open_deadlines = max(0, self._open_deadlines - 1)
            self._leave(request)

    def take(self, stream: Stream) -> bytes:
        """The next item of a stream, which has one."""
        item, credit = stream.take()
        if credit and stream.link and stream.entry and not stream.done:
            stream.link.give_credit(stream.entry.id, credit)
        return item

    # Waiting.

    def _wait(self, request: Request, is_first: bool = False) -> None:
        request.link = request.entry = None
        self._waiting[request] = None
        self._waiting_bytes += len(request.body)
        if is_first:
            self._waiting.move_to_end(request, last=False)

    def _stop_waiting(self, request: Request) -> bool:
        if request not in self._waiting:
            return False
        del self._waiting[request]
        self._waiting_bytes -= len(request.body)
        return True

    def pump(self, now: float) -> None:
        """Sends what has a connection, a place and room (section 12.6)."""
        link = self._core.current
        if link is None:
            if not self._core.may_connect:
                self.fail_waiting(NotSent("closed", self._core.why_ended()))
            return
        while self._waiting:
            request = next(iter(self._waiting))
            if not self._has_room(link, request):
                return
            self._stop_waiting(request)
            self._send(now, link, request)

    def _has_room(self, link: Link, request: Request) -> bool:
        assert link.hello
        if link.out_bytes >= self._config.outbound_bytes:
            return False
        places = min(self._config.in_flight, link.hello.in_flight)
        return not request.takes_place or link.places_taken < places

    def _send(self, now: float, link: Link, request: Request) -> None:
        reason = self._why_not(now, link, request)
        attributes = dict(request.attributes)
        if request.key is not None:
            attributes["key"] = request.key
        if request.tells_deadline:
            milliseconds = math.ceil((request.deadline - now) * 1000)
            attributes["ttl"] = str(min(max(1, milliseconds), MAX_NUMBER))
        if reason is None and not link.fits(request.method, attributes, request.body):
            reason = NotSent("too-long", f"the line is over the server's max-line of {link.max_line} bytes")
        if reason is not None:
            return self._settle(request, reason)
        if isinstance(request, OneWay):
            request.link = link
            return link.send_one_way(request)
        if isinstance(request, Methods):
            request.restart()
        request.link = link
        request.entry = link.send(Kind.REQUEST, request.method, request.body, attributes, request)

    def _why_not(self, now: float, link: Link, request: Request) -> CallError | None:
        """Why a request may not be sent here: its time is over, or its key (C5.2, C23.1, C23.2)."""
        if now >= request.deadline:
            return NotSent("deadline", "the deadline ended before the request was sent")
        if request.key is None:
            return None
        keys = link.hello.keys if link.hello else None
        if keys is None:
            return NotSent("keys", "the server does not announce keys")
        if request.is_repeat and request.store and request.first_offered is not None:
            store, seconds = request.store
            if keys.store != store or now - request.first_offered >= seconds:
                return NotSent("keys", "the server does not know the key of the first attempt any more")
        return None

    def offered(self, now: float, link: Link, lines: Iterable[OutLine]) -> None:
        """The transport has taken these lines."""
        keys = link.hello.keys if link.hello else None
        for line in lines:
            request = line.entry.request if line.entry else None
            if request is not None and request.key is not None and request.first_offered is None and keys:
                request.first_offered, request.store = now, (keys.store, keys.seconds)
            if line.one_way is not None:
                line.one_way.done = True
                self._is_done(line.one_way)

    # Replies.

    def replied(self, now: float, link: Link, entry: Entry, line: ReplyLine) -> None:
        request = entry.request
        assert request is not None
        if line.word == "more":
            return self._item(link, entry, request, line)
        link.remove(entry)
        if entry.is_dead:
            return self._core.late(entry.id)
        match line.word:
            case "ok":
                request.accept(line)
                self._is_done(request)
            case "err":
                self._settle(request, Failed(line.code, line.text))
            case "cut" if request.idempotent and line.code == "closing" and self._core.may_reconnect:
                self._cut_off(now, link, request, Unknown(line.code, line.text))
            case "cut":
                self._settle(request, Unknown(line.code, line.text))
            case _:
                self._refused(now, link, request, line)

    def _item(self, link: Link, entry: Entry, request: Request, line: ReplyLine) -> None:
        if entry.is_dead or isinstance(request, Publish):
            return
        if isinstance(request, Methods):
            if not request.push(line.body):
                entry.is_dead = True
                self._settle(request, Unknown("too-large", "the list of methods is longer than the client takes"))
        elif isinstance(request, Stream) and request.push(line.body):
            self._core.wake(request)
        else:
            entry.is_dead = True
            link.cancel(entry.id)
            kind = "an item came without credit" if isinstance(request, Stream) else "the reply is a stream"
            self._settle(request, Unknown("unexpected-item", kind))

    def _refused(self, now: float, link: Link, request: Request, line: ReplyLine) -> None:
        refusal = Refused(line.code, line.text, line.retry)
        has_begun = isinstance(request, Stream) and request.has_begun
        if has_begun or (line.retry is None and line.code != "closing"):
            return self._settle(request, refusal)
        request.refusal = refusal
        if line.retry is None and link.bye_reason is not None:
            return self._next(request, refusal)
        self._pause(now, request, line.retry, refusal)

    def _cut_off(self, now: float, link: Link, request: Request, outcome: Unknown) -> None:
        """``cut closing`` of an idempotent request: without a ``/bye`` the same server would be asked again."""
        request.is_repeat = True
        if link.bye_reason is not None:
            return self._next(request, outcome)
        self._pause(now, request, None, outcome)

    def _pause(self, now: float, request: Request, retry: float | None, otherwise: CallError) -> None:
        """Sends it again after a pause (section 14.8), if there are time and room for that."""
        after = pause(request.pauses, retry, self._config, self._rng)
        request.pauses += 1
        if now + after >= request.deadline or self._is_full(request):
            return self._settle(request, otherwise)
        request.link = request.entry = None
        heapq.heappush(self._delayed, (now + after, next(self._count), request))
        self._waiting_bytes += len(request.body)

    def _pop_delayed(self) -> Request:
        request = heapq.heappop(self._delayed)[2]
        self._waiting_bytes -= len(request.body)
        return request

    def _next(self, request: Request, otherwise: CallError) -> None:
        """Sends it on the next connection, if there will be one."""
        if self._core.may_reconnect:
            self._wait(request, is_first=True)
        else:
            self._settle(request, otherwise)

    def _repeat(self, request: Request) -> None:
        request.is_repeat = True
        self._next(request, Unknown("lost", "the connection was lost"))

    # The end of a connection.

    def line_drawn(self, link: Link) -> None:
        """The server has said ``/bye;last=N``: what is not offered starts on another connection."""
        entries = [entry for entry in link.table.values() if entry.request and not entry.is_offered]
        for entry in reversed(entries):
            link.take_back(entry)
            self._return(entry)
        for one_way in reversed(link.unoffered_one_ways()):
            self._return_one_way(one_way)

    def _return(self, entry: Entry) -> None:
        if entry.request is not None and not entry.is_dead:
            self._next(entry.request, NotSent("closing", "the connection ended before it was sent"))

    def _return_one_way(self, one_way: OneWay) -> None:
        if not one_way.done:
            self._next(one_way, NotSent("closing", "the connection ended before it was sent"))
            self._core.stats.one_ways_dropped += one_way.done

    def link_lost(self, link: Link, error: ConnectionFailure) -> None:
        """A connection has ended. Its requests get their outcomes, or start anew (C5.1)."""
        for one_way in reversed(link.unoffered_one_ways()):
            self._return_one_way(one_way)
        for entry in reversed(list(link.table.values())):
            request = entry.request
            if request is None or entry.is_dead or request.done:
                continue
            has_begun = isinstance(request, Stream) and request.has_begun
            is_above = link.bye_last is not None and entry.id > link.bye_last and request.takes_place
            if not entry.is_offered:
                self._return(entry)
            elif is_above and not has_begun:
                self._next(request, Refused("closing", "the server left before it read the request"))
            elif request.idempotent or request.key is not None:
                self._repeat(request)
            else:
                self._settle(request, Unknown("lost", f"the connection was lost: {error}"))

    def fail_waiting(self, error: CallError) -> None:
        """No request will be sent any more."""
        for request in list(self._waiting):
            self._stop_waiting(request)
            self._settle(request, type(error)(error.code, error.text))
        while self._delayed:
            request = self._pop_delayed()
            if not request.done:
                self._settle(request, type(error)(error.code, error.text))

    # Time.

    def due(self) -> float:
        while self._delayed and self._delayed[0][2].done:
            self._pop_delayed()
        while self._deadlines and self._deadlines[0][2].done:
            heapq.heappop(self._deadlines)
        delayed = self._delayed[0][0] if self._delayed else math.inf
        return min(delayed, self._deadlines[0][0] if self._deadlines else math.inf)

    def tick(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if not request.done:
                self._expire(request)
        while self._delayed and self._delayed[0][0] <= now:
            request = self._pop_delayed()
            if not request.done:
                self._wait(request)

    def _push_deadline(self, request: Request) -> None:
        heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))
        self._open_deadlines += 1
        if len(self._deadlines) > 2 * self._open_deadlines + 1_000:
            self._deadlines = [one for one in self._deadlines if not one[2].done]
            heapq.heapify(self._deadlines)
            self._open_deadlines = len(self._deadlines)

    def _expire(self, request: Request) -> None:
        if self._leave(request):
            self._settle(request, Unknown("deadline", "the deadline ended before the reply came"))
        else:
            self._settle(request, NotSent("deadline", "the deadline ended before the request was sent"))

    def _leave(self, request: Request) -> bool:
        """Takes a request out of wherever it is. Returns whether its line was offered."""
        if self._stop_waiting(request) or request.link is None:
            return False
        link, entry = request.link, request.entry
        if isinstance(request, OneWay) or entry is None:
            link.drop_one_way(request)
            return False
        if not entry.is_offered:
            link.take_back(entry)
            return False
        entry.is_dead = True
        if request.can_cancel:
            link.cancel(entry.id)
        return True

    # Outcomes.

    def _settle(self, request: Request, error: CallError) -> None:
        request.fail(error)
        self._is_done(request)

    def _is_done(self, request: Request) -> None:
        self._open_deadlines = max(0, self._open_deadlines - 1)
        self._core.wake(request)


def _check_head(request: Request) -> None:
    attributes = request.attributes
    if len(attributes) > MAX_ATTRIBUTES - 2:
        raise ValueError(f"a request has at most {MAX_ATTRIBUTES - 2} attributes")
    if len(encode(None, request.method, attributes, b"")) + _HEAD_ROOM > MAX_HEAD:
        raise ValueError(f"the method and the attributes have to be shorter than {MAX_HEAD - _HEAD_ROOM} bytes")

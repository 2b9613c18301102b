"""The client without input and output: bytes and a time in, bytes and events out.

A shell (for asyncio or Twisted) calls the methods of `Core` with the present time, in seconds of any clock
that does not go back. After each call, or each batch of calls, it calls `Core.outputs` until that is empty
and does what they say, wakes what `Core.woken` lists, and sets a timer for `Core.due`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from ..config import Config
from ..errors import (
    AuthenticationFailed,
    ClientClosed,
    ClosedByServer,
    ConnectionFailure,
    NotSent,
    ProtocolFault,
    TransportFailed,
)
from ..values import Delivery, Message, Position
from . import hello, notices
from .calls import Calls
from .events import (
    Authenticate,
    Close,
    Connected,
    ConnectionEvent,
    Disconnected,
    Ended,
    Happened,
    Leaving,
    Output,
    ServerError,
    Stats,
    UnmatchedReply,
    Write,
)
from .grammar import DEFAULT_MAX_LINE
from .keepalive import KeepAlive
from .lines import Notice, Notification, ReplyLine, parse, too_long
from .link import Entry, Kind, Link, Phase
from .notices import ByeNotice, ErrorNotice
from .requests import Request, Stream
from .rounds import Rounds
from .subscription import Subscription
from .topics import Topics

#: The longest ``/auth`` line that servers accept (section 20.1).
_MAX_AUTH_LINE = 8_192
#: Codes of ``/auth`` that say nothing about the credentials.
_PASSING = frozenset({"busy", "closing", "no-credentials", "credentials-failed", "credentials-too-long"})


class Core:
    """A client: its connections, requests and subscriptions."""

    def __init__(
        self,
        addresses: Sequence[str],
        config: Config,
        *,
        reconnects: bool,
        schemes: Sequence[str] = (),
        has_fixed_credentials: bool = True,
        rng: random.Random | None = None,
    ) -> None:
        if not addresses:
            raise ValueError("a client needs an address")
        rng = rng or random.Random()
        self.config = config
        self.reconnects = reconnects
        self.stats = Stats()
        self.links: dict[int, Link] = {}
        #: The connection on which requests begin.
        self.current: Link | None = None
        self.ended: ConnectionFailure | None = None
        self.is_closing = False
        self._schemes = tuple(schemes)
        self._has_fixed_credentials = has_fixed_credentials
        #: Whether there was a connection.
        self.has_connected = False
        self._outputs: list[Output] = []
        self._woken: dict[Request | Subscription, None] = {}
        self.keep_alive = KeepAlive(self, config, rng)
        self.rounds = Rounds(self, addresses, config, rng)
        self.calls = Calls(self, config, rng)
        self.topics = Topics(self, config, rng)

    # What the parts ask.

    @property
    def may_connect(self) -> bool:
        """Whether there may be another connection than the one in use."""
        return self.may_send and (self.reconnects or not self.has_connected)

    @property
    def may_reconnect(self) -> bool:
        return self.may_send and self.reconnects

    @property
    def may_send(self) -> bool:
        """Whether new requests are taken."""
        return self.ended is None and not self.is_closing

    def why_ended(self) -> str:
        if self.ended is not None:
            return str(self.ended)
        if self.is_closing:
            return "the client is closing"
        return "the server is leaving, and the client does not reconnect"

    def put(self, output: Output) -> None:
        self._outputs.append(output)

    def report(self, event: ConnectionEvent) -> None:
        self._outputs.append(Happened(event))

    def wake(self, handle: Request | Subscription) -> None:
        self._woken[handle] = None

    def late(self, id: int) -> None:
        self.stats.late_replies += 1
        self.report(UnmatchedReply("late", id))

    def is_refused_for_good(self, error: AuthenticationFailed) -> bool:
        return self._has_fixed_credentials and error.retry is None and error.code not in _PASSING

    # The application.

    def start(self, now: float) -> None:
        """Begins to connect."""
        self.rounds.begin_at_once(now)
        self.rounds.tick(now)

    def submit(self, now: float, request: Request, deadline: float | None = None) -> None:
        """Takes a request. Raises ``ValueError`` if its head would be too long."""
        self.calls.submit(now, request, deadline)

    def give_up(self, now: float, request: Request) -> None:
        """The caller of a request is gone."""
        self.calls.give_up(request)

    def take_item(self, now: float, stream: Stream) -> bytes | None:
        """The next item of a stream that has arrived."""
        return self.calls.take(stream) if stream.items else None

    def subscribe(self, now: float, subscription: Subscription, deadline: float | None = None) -> None:
        """Begins a subscription. Raises ``ValueError`` if the client already listens to the topic."""
        self.topics.subscribe(now, subscription, deadline)

    def unsubscribe(self, now: float, subscription: Subscription) -> None:
        """Leaves a topic."""
        self.topics.unsubscribe(subscription)

    def take(self, now: float, subscription: Subscription) -> Delivery | None:
        """The next delivery of a subscription that has arrived."""
        delivery = subscription.take()
        if delivery is not None:
            self.topics.acknowledge(subscription)
        return delivery

    def ack(self, now: float, subscription: Subscription, what: Message | Position) -> None:
        """Acknowledges a message, or everything below a position that the application has taken."""
        subscription.handled(what)
        self.topics.acknowledge(subscription)

    def close(self, now: float) -> None:
        """Ends in order: what has a place in flight is answered first."""
        if not self.may_send:
            return
        self.calls.pump(now)
        self.is_closing = True
        self.current = None
        self.rounds.stop()
        self.calls.fail_waiting(NotSent("closed", self.why_ended()))
        self.topics.close("client-closed")
        for link in list(self.links.values()):
            self._quit(now, link)
        self._end_if_alone(now, ClientClosed())

    def abort(self, now: float) -> None:
        """Ends at once."""
        self.end(now, ClientClosed())

    def _quit(self, now: float, link: Link) -> None:
        link.quit_by = min(link.quit_by, now + self.config.close_timeout)
        if link.takes_requests:
            link.send(Kind.QUIT, "/quit")
            link.has_quit = True
            link.phase = Phase.LEAVING

    # The transports.

    def opened(self, now: float, number: int) -> None:
        """The transport of an attempt is open."""
        address = self.rounds.address_of(number)
        if address is None:
            self.put(Close(number))  # it was dropped meanwhile
        elif self.rounds.opened(now, number):
            self.links[number] = Link(number, address.text, self.config.max_line, now)
        else:
            self.put(Close(number))

    def open_failed(self, now: float, number: int, error: ConnectionFailure) -> None:
        """The transport of an attempt could not be opened."""
        self.link_over(now, number, error)

    def received(self, now: float, number: int, data: bytes) -> None:
        """Bytes came, cut anywhere."""
        link = self.links.get(number)
        if link is None:
            return
        self.keep_alive.heard(now, link)
        try:
            for line in link.splitter.feed(data):
                self._line(now, link, line)
                if link.phase is Phase.CLOSED:
                    return
        except ProtocolFault as fault:
            self.link_over(now, number, fault)

    def received_line(self, now: float, number: int, line: bytes) -> None:
        """A line came, without its LF: for transports that split lines themselves."""
        link = self.links.get(number)
        if link is None:
            return
        try:
            self._line(now, link, line)
        except ProtocolFault as fault:
            self.link_over(now, number, fault)

    def heard(self, now: float, number: int) -> None:
        """Bytes came to a transport that splits lines itself."""
        if number in self.links:
            self.keep_alive.heard(now, self.links[number])

    def max_line(self, number: int) -> int:
        """The longest line that a connection reads now, LF included."""
        link = self.links.get(number)
        return link.splitter.max_line if link else self.config.max_line

    def line_too_long(self, now: float, number: int) -> None:
        """A transport that splits lines found one over the limit (B2.8)."""
        self.link_over(now, number, too_long(self.config.max_line))

    def writable(self, now: float, number: int, is_writable: bool) -> None:
        """The transport takes bytes, or takes no more for now."""
        link = self.links.get(number)
        if link is not None:
            link.is_writable = is_writable

    def lost(self, now: float, number: int, error: ConnectionFailure) -> None:
        """The transport is closed."""
        self.link_over(now, number, error)

    def authenticate(self, now: float, number: int, scheme: str, credentials: bytes) -> None:
        """The credentials that an `Authenticate` asked for."""
        link = self.links.get(number)
        if link is None:
            return
        body = scheme.encode() + b" " + credentials
        if not credentials:
            return self.no_credentials(now, number, "the credentials are empty")
        if len(body) + 32 > min(_MAX_AUTH_LINE, link.max_line) or not link.fits("/auth", {}, body):
            error = AuthenticationFailed("credentials-too-long", "the line of /auth is too long for servers")
            return self.link_over(now, number, error)
        link.send(Kind.AUTH, "/auth", body)

    def no_credentials(self, now: float, number: int, why: str) -> None:
        """The credentials that an `Authenticate` asked for cannot be had."""
        self.link_over(now, number, AuthenticationFailed("credentials-failed", why))

    # Lines.

    def _line(self, now: float, link: Link, text: bytes) -> None:
        line = parse(text)
        if link.hello is None:
            return self._greeted(now, link, hello.read(line))
        match line:
            case ReplyLine():
                self._reply(now, link, line)
            case Notification():
                self.topics.notification(link, line)
            case Notice():
                self._notice(now, link, line)

    def _greeted(self, now: float, link: Link, said: hello.Hello) -> None:
        link.hello = said
        link.phase = Phase.AUTHENTICATING
        if self.config.max_line != DEFAULT_MAX_LINE:
            link.awaited.add(Kind.HELLO)
            attributes = {"version": "1", "max-line": str(self.config.max_line)}
            link.send(Kind.HELLO, "/hello", attributes=attributes)
        if said.auth:
            link.awaited.add(Kind.AUTH)
            scheme = next((scheme for scheme in self._schemes if scheme in said.auth), None)
            if scheme is None:
                offered = " and ".join(said.auth)
                error = AuthenticationFailed("no-credentials", f"the server asks for {offered}")
                return self.link_over(now, link.number, error)
            self.put(Authenticate(link.number, scheme))
        self._open_if_ready(now, link)

    def _open_if_ready(self, now: float, link: Link) -> None:
        if link.awaited or link.phase is not Phase.AUTHENTICATING:
            return
        assert link.hello
        link.phase = Phase.OPEN
        link.opened_at = now
        self.current = link
        self.has_connected = True
        self.rounds.succeeded(link.number)
        self.keep_alive.opened(now, link)
        self.report(Connected(link.address, link.hello))

    def _reply(self, now: float, link: Link, line: ReplyLine) -> None:
        entry = link.table.get(line.id)
        if entry is None or not entry.is_offered:
            return self._unmatched(now, link, line.id)
        match entry.kind:
            case Kind.REQUEST:
                self.calls.replied(now, link, entry, line)
            case Kind.SUBSCRIBE | Kind.UNSUBSCRIBE:
                self.topics.replied(now, link, entry, line)
            case Kind.RENEW:
                self.topics.renewed(link, entry, line, now)
            case _:
                self._opening_reply(now, link, entry, line)

    def _opening_reply(self, now: float, link: Link, entry: Entry, line: ReplyLine) -> None:
        """A line for ``/hello``, ``/auth`` or ``/quit``."""
        if line.word == "more":
            return
        link.remove(entry)
        link.awaited.discard(entry.kind)
        if entry.kind is Kind.AUTH and line.word != "ok":
            error = AuthenticationFailed(line.code, line.text, line.retry)
            return self.link_over(now, link.number, error)
        if entry.kind is Kind.HELLO and line.word != "ok":
            link.splitter.max_line = DEFAULT_MAX_LINE
        self._open_if_ready(now, link)

    def _unmatched(self, now: float, link: Link, id: int) -> None:
        kind = link.unmatched(id)
        if kind == "doubled":
            self.stats.doubled_replies += 1
        else:
            self.stats.unasked_replies += 1
        self.report(UnmatchedReply(kind, id))
        if self.config.strict:
            self.link_over(now, link.number, ProtocolFault(f"a reply was {kind} (strict mode)"))

    def _notice(self, now: float, link: Link, line: Notice) -> None:
        notice = notices.read(line)
        match notice:
            case ByeNotice():
                self._bye(now, link, notice)
            case ErrorNotice():
                self.report(ServerError(notice.code, notice.text, notice.id))
                if notice.code == "id-order":
                    self.link_over(now, link.number, ProtocolFault("the server says that ids do not rise"))
            case None:
                pass
            case _:
                self.topics.notice(now, link, notice)

    def _bye(self, now: float, link: Link, bye: ByeNotice) -> None:
        link.bye_reason = bye.reason
        if bye.retry is not None:
            for address in self.rounds.addresses:
                if address.text == link.address:
                    address.not_before = max(address.not_before, now + bye.retry)
        self.report(Leaving(bye.reason, bye.last, bye.retry))
        if link.phase < Phase.OPEN:
            return self.link_over(now, link.number, ClosedByServer(bye.reason))
        link.phase = max(link.phase, Phase.LEAVING)
        if self.current is link:
            self.current = None
            if self.reconnects:
                self.rounds.begin_row(now, now - link.opened_at)
        if bye.last is not None:
            link.phase = Phase.LEFT
            link.bye_last = max(link.bye_last or 0, bye.last)
            self.calls.line_drawn(link)

    # The end of a connection.

    def link_over(self, now: float, number: int, error: ConnectionFailure) -> None:
        """A connection is over, whoever ended it."""
        link = self.links.pop(number, None)
        if link is None:
            return self.rounds.failed(now, number, error)
        if link.bye_reason is not None and isinstance(error, TransportFailed):
            error = ClosedByServer(link.bye_reason)
        was_greeting, link.phase = link.phase < Phase.OPEN, Phase.CLOSED
        self.put(Close(number))
        if was_greeting:
            return self.rounds.failed(now, number, error)
        self.report(Disconnected(link.address, link.hello.session if link.hello else None, error))
        was_current = self.current is link
        if was_current:
            self.current = None
        self.calls.link_lost(link, error)
        self.topics.link_lost(link, error)
        if was_current and self.reconnects:
            self.rounds.begin_row(now, now - link.opened_at)
        self._end_if_alone(now, error)

    def drop_greeting(self, number: int) -> None:
        """A round is over, and this connection was not ready in time."""
        link = self.links.pop(number, None)
        if link is not None:
            link.phase = Phase.CLOSED
            self.put(Close(number))

    def _end_if_alone(self, now: float, error: ConnectionFailure) -> None:
        if not self.links and not self.may_connect and self.ended is None:
            self.end(now, ClientClosed() if self.is_closing else error)

    def end(self, now: float, error: ConnectionFailure) -> None:
        """The client has ended, for good."""
        if self.ended is not None:
            return
        self.ended = error
        self.current = None
        self.rounds.stop()
        for link in list(self.links.values()):
            self.link_over(now, link.number, error)
        self.calls.fail_waiting(NotSent("closed", str(error)))
        is_own = isinstance(error, ClientClosed)
        self.topics.close("client-closed" if is_own else "lost")
        self.report(Ended(error))

    # Time and outputs.

    def due(self) -> float:
        """When `timer` has to be called; ``math.inf`` for never."""
        links = min((self.keep_alive.due(link) for link in self.links.values()), default=math.inf)
        return min(links, self.rounds.due(), self.calls.due(), self.topics.due())

    def timer(self, now: float) -> None:
        """Does what is due."""
        if self.ended is not None:
            return
        self.rounds.tick(now)
        self.calls.tick(now)
        self.topics.tick(now)
        for link in list(self.links.values()):
            if link.phase is not Phase.CLOSED and self.keep_alive.due(link) <= now:
                self.keep_alive.tick(now, link)

    def outputs(self, now: float) -> list[Output]:
        """What the shell has to do now. Call it again until it is empty."""
        self.topics.pump(now)
        self.calls.pump(now)
        for link in list(self.links.values()):
            self._quit_if_idle(now, link)
            self.keep_alive.observe(now, link)
            lines = link.offer()
            if lines:
                self.put(Write(link.number, b"".join(line.data for line in lines)))
                self.calls.offered(now, link, lines)
        outputs, self._outputs = self._outputs, []
        return outputs

    def _quit_if_idle(self, now: float, link: Link) -> None:
        """Behind a ``/bye``, a connection that nothing needs is left (section 18.2)."""
        is_leaving = link.phase is Phase.LEAVING and link.bye_reason is not None
        if is_leaving and not link.table and not link.topics and not link.out_bytes:
            self._quit(now, link)

    def woken(self) -> list[Request | Subscription]:
        """Requests and subscriptions of which something has changed."""
        woken, self._woken = list(self._woken), {}
        return woken

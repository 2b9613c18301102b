"""What the core asks of its shell, and what it reports of connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ConnectionFailure
from .hello import Hello

# Events of the connection, for the application.


@dataclass(frozen=True, slots=True)
class Connecting:
    """An attempt to connect to an address begins."""

    address: str
    #: Attempts since there was a connection, from 1.
    attempt: int


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """An attempt to connect failed. The client goes on, unless `Ended` follows."""

    address: str
    error: ConnectionFailure


@dataclass(frozen=True, slots=True)
class Connected:
    """The server has said hello, and has accepted the credentials if it asked for them."""

    address: str
    hello: Hello


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection is over. The client goes on, unless `Ended` follows."""

    address: str
    session: str | None
    error: ConnectionFailure


@dataclass(frozen=True, slots=True)
class Leaving:
    """The server said ``/bye``: nothing new begins on this connection. With ``last`` it is the second step."""

    reason: str
    last: int | None
    retry: float | None


@dataclass(frozen=True, slots=True)
class ServerError:
    """The server reports a fault with ``/error``, which belongs to no request."""

    code: str
    text: str
    id: int | None


@dataclass(frozen=True, slots=True)
class UnmatchedReply:
    """A reply reached no caller. ``kind`` is ``late``, ``doubled`` or ``unasked`` (section 12.5)."""

    kind: str
    id: int


@dataclass(frozen=True, slots=True)
class Violation:
    """The server broke the order of a topic's numbers, or delivered beyond the window."""

    topic: str


@dataclass(frozen=True, slots=True)
class RenewalFailed:
    """The reply to ``/renew`` did not list the topics, so a loss that the server does not name may stay
    unnoticed."""

    code: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The client has ended. It is the last event."""

    error: ConnectionFailure


@dataclass(frozen=True, slots=True)
class Missed:
    """So many events were dropped, the oldest first, because they were not read in time."""

    count: int


ConnectionEvent: TypeAlias = (
    Connecting
    | ConnectFailed
    | Connected
    | Disconnected
    | Leaving
    | ServerError
    | UnmatchedReply
    | Violation
    | RenewalFailed
    | Ended
    | Missed
)

# What the shell has to do.


@dataclass(frozen=True, slots=True)
class Open:
    """Connect to the address, and call `Core.opened` or `Core.open_failed` with this number."""

    number: int
    address: str
    #: Seconds after which the shell gives up at the latest.
    within: float


@dataclass(frozen=True, slots=True)
class Write:
    """Write the bytes. They count as offered to the transport."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Drop an attempt to connect, or close the connection. The core expects nothing more of it."""

    number: int


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Find the credentials for the scheme, and call `Core.authenticate` or `Core.no_credentials`."""

    number: int
    scheme: str


@dataclass(frozen=True, slots=True)
class Happened:
    """Tell the application of an event."""

    event: ConnectionEvent


@dataclass(frozen=True, slots=True)
class RoundFailed:
    """A round of attempts to connect failed at all addresses."""

    error: ConnectionFailure


Output: TypeAlias = Open | Write | Close | Authenticate | Happened | RoundFailed


@dataclass(slots=True)
class Stats:
    """What was ignored so far, by kind."""

    #: Replies that came after their caller was gone. No fault.
    late_replies: int = 0
    #: Lines for a request that already had its terminal line.
    doubled_replies: int = 0
    #: Replies to requests that were never sent.
    unasked_replies: int = 0
    #: Notifications and notices that were ignored, and notifications beyond the window.
    violations: int = 0
    #: One-way requests that were dropped before they were offered to the transport.
    one_ways_dropped: int = 0

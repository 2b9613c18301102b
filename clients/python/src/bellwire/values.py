"""What a client gets: replies, positions, and the deliveries of a subscription."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

#: The greatest number of the protocol, 2^53-1.
MAX_NUMBER = 2**53 - 1

_POSITION = re.compile(r"([A-Za-z0-9]{1,32}):([1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a topic's log: the epoch of the log, and the number of the *next* message.

    ``str(position)`` is its text on the wire, such as ``k3f9:18``. Store that, and read it again with
    :meth:`parse`.
    """

    epoch: str
    next: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads ``EPOCH:NEXT``. Raises ``ValueError`` for any other text."""
        match = _POSITION.fullmatch(text)
        if not match or int(match[2]) > MAX_NUMBER:
            raise ValueError(f"{text[:64]!r} is not a position: EPOCH:NUMBER is expected")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}:{self.next}"


@dataclass(frozen=True, slots=True)
class After:
    """Where the effect of a call is visible: once everything of the topic below the position was seen."""

    topic: str
    position: Position


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a call whose handler ran and succeeded (``ok``)."""

    #: The payload, any bytes.
    payload: bytes
    #: Where the effect of this call is visible, if the server says so.
    after: After | None = None

    def text(self) -> str:
        """The payload as UTF-8. Raises ``UnicodeDecodeError`` if it is not."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as JSON; an absent one is ``None``. Raises ``ValueError`` if it is not JSON."""
        return json.loads(self.payload) if self.payload else None


@dataclass(frozen=True, slots=True)
class Published:
    """Where a published message is in the log of its topic."""

    epoch: str
    #: The number of the message itself.
    sequence: int


@dataclass(frozen=True, slots=True)
class Message:
    """A notification."""

    sequence: int
    payload: bytes
    #: The epoch of its number.
    epoch: str
    #: Whether the application had this message before, and did not acknowledge it.
    redelivered: bool = False

    def text(self) -> str:
        """The payload as UTF-8. Raises ``UnicodeDecodeError`` if it is not."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as JSON; an absent one is ``None``. Raises ``ValueError`` if it is not JSON."""
        return json.loads(self.payload) if self.payload else None


@dataclass(frozen=True, slots=True)
class Gap:
    """The messages ``first`` to ``last``, both included, will not be delivered.

    The server's reasons are ``retention``, ``replaced``, ``too-large``, ``corrupt`` and ``slow``; unknown
    ones may come. The client's own are ``lost`` (the server skipped the numbers), ``lagged`` (the
    application did not read in time, and the client dropped them) and ``shutdown`` (the server stopped
    before it delivered them).
    """

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The log of the topic was replaced. Nothing more of the old one comes; the new one goes on here."""

    position: Position


@dataclass(frozen=True, slots=True)
class End:
    """The subscription is over. This is its last delivery.

    ``reason`` is the server's (``closed``, ``revoked``, ``slow``), or the code with which a resume was
    refused, or one of the client's own: ``lost`` (the connection ended, and the client does not reconnect),
    ``expired`` and ``shutdown`` (the same, after a lease that ran out or a server that stopped), and
    ``exhausted`` (the number 2^53-1 was reached).
    """

    reason: str
    #: Where to resume, if the subscription ever had a position.
    position: Position | None


#: What a subscription delivers.
Delivery: TypeAlias = Message | Gap | Reset | End

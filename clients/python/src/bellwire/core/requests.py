"""What an application asks for: calls, streamed calls, ``/publish``, ``/methods``, one-way requests.

A request is a handle. The core settles it, and lists it among those to be woken; the shell reads the result.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import CallError, NotSent, Refused, Unknown
from ..values import After, Published, Reply
from . import grammar
from .lines import ReplyLine

if TYPE_CHECKING:
    from .link import Entry, Link


class Request:
    """A request of any kind, over all attempts to send it."""

    #: Whether it takes a place in flight, and is subject to the ``last`` of a ``/bye``.
    takes_place = True
    #: Whether ``/cancel`` has an effect on it.
    can_cancel = True

    def __init__(self, method: str, body: bytes, attributes: Mapping[str, str] | None = None) -> None:
        self.method = method
        self.body = body
        self.attributes = dict(attributes or {})
        #: When the caller's patience ends, and whether the server is told.
        self.deadline = math.inf
        self.tells_deadline = False
        self.key: str | None = None
        self.idempotent = False
        #: The outcome, once it is done.
        self.done = False
        self.error: CallError | None = None
        #: The refusal after which it waits to be sent again.
        self.refusal: Refused | None = None
        #: Whether an earlier attempt may have run: then no later outcome can say that it has not.
        self.is_repeat = False
        #: When the line was first offered to the transport, and the table of keys there.
        self.first_offered: float | None = None
        self.store: tuple[str, int] | None = None
        #: How many pauses it has had (section 14.8).
        self.pauses = 0
        #: The connection where it is in flight or queued, and its entry there.
        self.link: Link | None = None
        self.entry: Entry | None = None
        #: Called by the shell when something of it has changed: an item, or its outcome.
        self.waker: Callable[[], None] | None = None

    def accept(self, line: ReplyLine) -> None:
        """Takes the ``ok``."""
        self.done = True

    def fail(self, error: CallError) -> None:
        """Ends without a reply."""
        self.done = True
        if self.is_repeat and isinstance(error, (Refused, NotSent)):
            error = Unknown("lost", f"the connection was lost, and a repeat did not help: {error}")
        elif self.refusal is not None and isinstance(error, NotSent):
            error = self.refusal
        self.error = error


class Call(Request):
    """A call with one reply."""

    result: Reply | None = None

    def accept(self, line: ReplyLine) -> None:
        super().accept(line)
        self.result = Reply(line.body, _after(line))


class Publish(Request):
    """A ``/publish``. It cannot be taken back."""

    can_cancel = False
    result: Published | None = None

    def accept(self, line: ReplyLine) -> None:
        super().accept(line)
        epoch, sequence = line.attributes.get("epoch", ""), grammar.number(line.attributes.get("seq"))
        if sequence is None or not grammar.is_epoch(epoch):
            self.error = Unknown("malformed", "the message was published, but the server did not say where")
        else:
            self.result = Published(epoch, sequence)


class Methods(Request):
    """``/methods``: the list of the server's methods, with a line of documentation each."""

    takes_place = False
    can_cancel = False

    def __init__(self, most_bytes: int) -> None:
        super().__init__("/methods", b"")
        self.result: list[tuple[str, str]] = []
        self._room = most_bytes

    def push(self, item: bytes) -> bool:
        """Takes a line of the list. Returns whether there was room."""
        self._room -= len(item) + 64
        name, _, doc = item.partition(b" ")
        if self._room >= 0:
            self.result.append((grammar.printable(name), doc.decode(errors="replace")))
        return self._room >= 0

    def restart(self) -> None:
        """Begins the list anew, because the request is sent again."""
        self._room += sum(len(name) + len(doc) + 64 for name, doc in self.result)
        self.result.clear()


class OneWay(Request):
    """A request without an answer. It is done when it was offered to the transport."""

    takes_place = False
    can_cancel = False


class Stream(Request):
    """A call with a streamed reply. Holds at most as many items as it gave credit for."""

    def __init__(
        self, method: str, body: bytes, attributes: Mapping[str, str], window: int | None
    ) -> None:
        super().__init__(method, body, attributes)
        self.window = 32 if window is None else window
        if window is not None:
            self.attributes["window"] = str(window)
        self.credit = self.window
        self.items: deque[bytes] = deque()
        self.has_begun = False
        self._taken = 0

    def push(self, item: bytes) -> bool:
        """Takes an item. Returns whether there was credit for it (C15.1)."""
        if self.credit == 0:
            return False
        self.has_begun = True
        self.credit -= 1
        self.items.append(item)
        return True

    def accept(self, line: ReplyLine) -> None:
        super().accept(line)
        if line.body:
            self.items.append(line.body)

    def take(self) -> tuple[bytes, int]:
        """The next item, and the credit to give back for it: half of the window at once."""
        item = self.items.popleft()
        self._taken += 1
        if self.done or self._taken < max(1, self.window // 2):
            return item, 0
        given, self._taken = self._taken, 0
        self.credit += given
        return item, given


def _after(line: ReplyLine) -> After | None:
    topic, _, text = line.attributes.get("after", "").partition(":")
    position = grammar.position(text)
    return After(topic, position) if position is not None and grammar.is_name(topic) else None

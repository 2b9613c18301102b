"""A subscription: its own position, and what it makes of the lines about its topic (section 13).

It does not know connections: `topics` sends its requests, and hands it what concerns it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import CallError
from ..values import MAX_NUMBER, Delivery, End, Gap, Message, Position, Reset
from .acks import Acks
from .inbox import Inbox

#: Logs of a topic that a client remembers to have left (C14.1).
_LEFT_LOGS = 8


class Stage(enum.Enum):
    """Where a subscription is (section 13.9)."""

    IDLE = "to be asked for on the connection in use, or the next one"
    PAUSED = "to be asked for after a pause"
    ASKED = "/subscribe was sent"
    LISTENING = "accepted"
    LEAVING = "/unsubscribe was sent"
    OVER = "ended"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the application asked for."""

    start: Position | None = None
    last: int | None = None
    window: int | None = None
    slow: str | None = None
    by_hand: bool = False
    redeliver: bool = False


class Subscription:
    """The handle of a subscription, over all connections."""

    def __init__(self, topic: str, terms: Terms, inbox: Inbox) -> None:
        self.topic = topic
        self.terms = terms
        self.inbox = inbox
        self.stage = Stage.IDLE
        #: Whether the application still listens.
        self.is_wanted = True
        #: Whether there was an ``ok``. Before that, a refusal belongs to the task that asked.
        self.is_accepted = False
        self.error: CallError | None = None
        self.deadline = math.inf
        self.waker: Callable[[], None] | None = None
        #: The repetitions of ``/subscribe`` (section 14.8).
        self.pauses = 0
        self.accepted_at = -math.inf
        #: Its own position: of what was received.
        self.epoch = terms.start.epoch if terms.start else None
        self.expected = terms.start.next if terms.start else 0
        #: The number behind all that was received in this epoch; above `expected` in a redelivery.
        self._received = self.expected
        #: The position behind all that the application took.
        self.taken = terms.start
        #: The number behind what was delivered or named on the present subscription.
        self.wire = 0
        self._asked = self.expected
        self._left: dict[str, int] = {}
        self._head = 0
        self._end_reason = ""
        self._acks = Acks(terms.window, self.expected) if terms.window else None

    # What it asks for.

    def attributes(self) -> dict[str, str]:
        """The attributes of its next ``/subscribe``; sets where that begins."""
        terms, found = self.terms, dict[str, str]()
        if self.epoch is not None:
            self._asked = self._resume_at()
            found["from"] = f"{self.epoch}:{self._asked}"
        elif terms.last:
            found["last"] = str(terms.last)
        if terms.window:
            found["window"] = str(terms.window)
        if terms.slow:
            found["slow"] = terms.slow
        return found

    def _resume_at(self) -> int:
        if self._acks and self.terms.redeliver and not self.inbox.has_reset:
            return min(self._acks.low, self.expected)
        return self.expected

    @property
    def is_exhausted(self) -> bool:
        """Whether no position names what follows."""
        return self.epoch is not None and self.expected > MAX_NUMBER

    @property
    def position(self) -> Position | None:
        """Its own position, of what was received."""
        return None if self.epoch is None else Position(self.epoch, self.expected)

    # What the server says. Each returns whether the line was taken; if not, it is counted.

    def begun(self, epoch: str, next: int, now: float) -> bool:
        """The ``ok`` of ``/subscribe``. Returns False if it has to go back to an epoch left before."""
        self.is_accepted, self.accepted_at = True, now
        self.wire = next
        back = self._left.get(epoch, 0) if epoch != self.epoch else 0
        if self.epoch is None:
            self._enter(epoch, next)
            self.taken = Position(epoch, next)
        elif epoch != self.epoch:
            self._end_epoch()
            self._enter(epoch, max(next, back))
            self.inbox.push(Reset(Position(epoch, self.expected)))
        else:
            self._rewind()
            self._hole(next - 1)
        if self._acks:
            self._acks.restart(next)
        self._head = 0
        return back <= next

    def _enter(self, epoch: str, next: int) -> None:
        self.epoch, self.expected, self._received = epoch, next, next
        self.wire = next
        if self._acks and self.terms.window:
            self._acks = Acks(self.terms.window, next)

    def _rewind(self) -> None:
        """The resume was accepted: what was received beyond its position is delivered again (C16.5)."""
        if self._asked < self.expected:
            self.inbox.clear()
            self.expected = self._asked

    def _end_epoch(self) -> None:
        """Tells what of the present epoch is lost, and remembers where it was left."""
        assert self.epoch is not None
        handed = self.taken.next if self.taken and self.taken.epoch == self.epoch else 0
        first, last = max(self.expected, handed), max(self._head, self._received - 1)
        if first <= last:
            self.inbox.push(Gap(first, last, "shutdown" if self._head else "lost"))
        self._left.pop(self.epoch, None)
        self._left[self.epoch] = max(self._received, last + 1)
        if len(self._left) > _LEFT_LOGS:
            del self._left[next(iter(self._left))]

    def message(self, sequence: int, payload: bytes) -> bool:
        assert self.epoch is not None
        self.wire = max(self.wire, sequence + 1)
        is_within = self._acks is None or self._acks.delivered(sequence)
        if sequence < self.expected:
            return False
        self._hole(sequence - 1)
        self._reach(sequence + 1)
        if self._acks and self.terms.redeliver and self._acks.is_done(sequence):
            return is_within
        taken = self.taken
        again = taken is not None and taken.epoch == self.epoch and sequence < taken.next
        self.inbox.push(Message(sequence, payload, self.epoch, again))
        return is_within

    def gap(self, epoch: str, first: int, last: int, reason: str) -> bool:
        if epoch != self.epoch:
            return False
        self.wire = max(self.wire, last + 1)
        if last < self.expected:
            return False
        self._hole(first - 1)
        self.inbox.push(Gap(max(first, self.expected), last, reason))
        self._reach(last + 1)
        return True

    def reset(self, position: Position) -> bool:
        if position.epoch == self.epoch:
            return False
        self._end_epoch()
        self._enter(position.epoch, position.next)
        self.inbox.push(Reset(position))
        return True

    def listed(self, position: Position) -> None:
        """An entry of the reply to ``/renew`` (C4.6)."""
        if position.epoch == self.epoch:
            self.wire = max(self.wire, position.next)
            self._hole(position.next - 1)

    def interrupted(self, reason: str, head: int) -> None:
        """The server ended it, and it is to be resumed."""
        self._head, self._end_reason = max(head, self._head), reason

    def _hole(self, last: int) -> None:
        if last >= self.expected:
            self.inbox.push(Gap(self.expected, last, "lost"))
            self._reach(last + 1)

    def _reach(self, next: int) -> None:
        self.expected = next
        self._received = max(self._received, next)

    def end(self, reason: str) -> None:
        """It is over, and the application is told."""
        self.stage = Stage.OVER
        self.inbox.push(End(reason, self.position))

    def lose(self) -> None:
        """It is over, because there will be no other connection."""
        self.end(self._end_reason or "lost")

    # What the application does.

    def take(self) -> Delivery | None:
        """The next delivery, if there is one. It counts as handled, unless acks are by hand."""
        delivery = self.inbox.pop()
        while isinstance(delivery, Message) and self._is_acknowledged_copy(delivery):
            delivery = self.inbox.pop()
        match delivery:
            case Message(sequence=sequence, epoch=epoch):
                self._has_taken(epoch, sequence + 1)
                if self._acks and epoch == self.epoch and not self._is_by_hand:
                    self._acks.done(sequence, sequence)
            case Gap(first=first, last=last):
                if self.taken is not None:
                    self._has_taken(self.taken.epoch, last + 1)
                if self._acks and self.taken is not None and self.taken.epoch == self.epoch:
                    self._acks.gap(first, last)
            case Reset(position=position):
                self.taken = position
        return delivery

    def _is_acknowledged_copy(self, message: Message) -> bool:
        """Whether it is a redelivery of a message that was acknowledged in the meantime (C16.5)."""
        if self._acks is None or not message.redelivered or message.epoch != self.epoch:
            return False
        return self._acks.is_done(message.sequence)

    @property
    def _is_by_hand(self) -> bool:
        return self.terms.by_hand or self.terms.redeliver

    def _has_taken(self, epoch: str, next: int) -> None:
        before = self.taken.next if self.taken and self.taken.epoch == epoch else 0
        self.taken = Position(epoch, max(before, next))

    def handled(self, what: Message | Position) -> None:
        """The application acknowledges one message, or everything below a position."""
        if self._acks is None or what.epoch != self.epoch:
            return
        if isinstance(what, Message):
            self._acks.done(what.sequence, what.sequence)
        else:
            taken = self.taken.next if self.taken and self.taken.epoch == self.epoch else 0
            self._acks.done(self._acks.low, min(what.next, taken) - 1)

    @property
    def unacknowledged(self) -> Position | None:
        """The lowest number that the application has not acknowledged."""
        if self._acks is None or self.epoch is None:
            return None
        return Position(self.epoch, self._acks.low)

    def due_ack(self) -> Position | None:
        """The ack that has to be sent now."""
        if self._acks is None or self.epoch is None or self.stage is not Stage.LISTENING:
            return None
        next = self._acks.due(self.wire)
        if next is None or next > MAX_NUMBER:
            return None
        self._acks.sent(next)
        return Position(self.epoch, next)

    def has_seen(self, position: Position) -> bool:
        """Whether an ``after`` with this position is satisfied (C17.1, C17.2)."""
        if self.stage is Stage.OVER or not self.is_wanted or self.epoch != position.epoch:
            return True
        taken = self.taken
        return taken is not None and taken.epoch == position.epoch and taken.next >= position.next

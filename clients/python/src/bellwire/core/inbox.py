"""The deliveries of a subscription that wait for the application: a bounded queue (C4.8).

At its bound the oldest deliveries are dropped. What was dropped is one gap, one reset, and one more gap
at most: the messages before the reset are named by the first gap. A reset to a later log takes the place of
one to an earlier log, and of the gap between them.
"""

from __future__ import annotations

from collections import deque

from ..values import Delivery, End, Gap, Message, Reset

LAGGED = "lagged"
#: What a delivery costs beside its payload.
_OVERHEAD = 64


class Inbox:
    """Deliveries in order, the end included."""

    def __init__(self, most_items: int, most_bytes: int) -> None:
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._queue: deque[Message | Gap | Reset] = deque()
        self._bytes = 0
        self._dropped: list[Gap | Reset] = []
        self._end: End | None = None
        self._resets = 0

    def __len__(self) -> int:
        return len(self._dropped) + len(self._queue) + (self._end is not None)

    @property
    def has_reset(self) -> bool:
        """Whether a reset waits here."""
        return self._resets > 0

    def push(self, delivery: Delivery) -> None:
        """Takes a delivery, and drops the oldest ones for it where there is no room."""
        if isinstance(delivery, End):
            self._end = delivery
            return
        self._queue.append(delivery)
        self._bytes += _cost(delivery)
        self._resets += isinstance(delivery, Reset)
        while len(self._queue) > 1 and self._is_over():
            oldest = self._queue.popleft()
            self._bytes -= _cost(oldest)
            self._drop(oldest)

    def _is_over(self) -> bool:
        return len(self._queue) > self._most_items or self._bytes > self._most_bytes

    def _drop(self, oldest: Message | Gap | Reset) -> None:
        newest = self._dropped[-1] if self._dropped else None
        if isinstance(oldest, Reset):
            before = next((place for place, one in enumerate(self._dropped) if isinstance(one, Reset)), None)
            if before is not None:
                del self._dropped[before:]
                self._resets -= 1
            self._dropped.append(oldest)
            return
        first, last = (oldest.first, oldest.last) if isinstance(oldest, Gap) else (oldest.sequence,) * 2
        if isinstance(newest, Gap):
            self._dropped[-1] = Gap(newest.first, last, LAGGED)
        else:
            self._dropped.append(Gap(first, last, LAGGED))

    def pop(self) -> Delivery | None:
        """The oldest delivery."""
        if self._dropped:
            found: Message | Gap | Reset = self._dropped.pop(0)
        elif self._queue:
            found = self._queue.popleft()
            self._bytes -= _cost(found)
        else:
            end, self._end = self._end, None
            return end
        self._resets -= isinstance(found, Reset)
        return found

    def clear(self) -> None:
        """Forgets everything."""
        self._queue.clear()
        self._dropped.clear()
        self._end = None
        self._bytes = self._resets = 0


def _cost(delivery: Message | Gap | Reset) -> int:
    return _OVERHEAD + (len(delivery.payload) if isinstance(delivery, Message) else 0)

"""Which numbers of a subscription the application has handled (section 16)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

#: Ends of gaps that are remembered; as many as a server may (S16.5).
_GAP_ENDS = 64


class Acks:
    """The numbers that are handled, and the ack that is due. All of them are of one epoch."""

    def __init__(self, window: int, low: int) -> None:
        self._half = (window + 1) // 2
        self._window = window
        #: The lowest number that is not handled.
        self.low = low
        #: Handled numbers above it: ranges that do not touch, in order.
        self._ranges: list[tuple[int, int]] = []
        #: The position of the last ack on the present subscription.
        self._acked = low
        #: Numbers that were delivered on the present subscription, and are not acknowledged.
        self._delivered: deque[int] = deque()
        #: The ends of gaps that are handled, or will be.
        self._gap_ends: list[int] = []

    def restart(self, next: int) -> None:
        """A subscription begins at ``next``, with an empty window (S16.6)."""
        self._acked = next
        self._delivered.clear()

    def delivered(self, sequence: int) -> bool:
        """A notification came on the wire. Returns whether it was within the window."""
        if len(self._delivered) >= self._window:
            return False
        self._delivered.append(sequence)
        return True

    def is_done(self, sequence: int) -> bool:
        """Whether the application has handled this number."""
        if sequence < self.low:
            return True
        place = bisect_left(self._ranges, (sequence + 1, 0)) - 1
        return place >= 0 and self._ranges[place][1] >= sequence

    def done(self, first: int, last: int) -> None:
        """The numbers from ``first`` to ``last`` are handled."""
        first = max(first, self.low)
        if last < first:
            return
        begin = end = bisect_left(self._ranges, (first, 0))
        if begin and self._ranges[begin - 1][1] >= first - 1:
            begin -= 1
        while end < len(self._ranges) and self._ranges[end][0] <= last + 1:
            end += 1
        merged = self._ranges[begin:end]
        lowest = min([first, *(one[0] for one in merged)])
        greatest = max([last, *(one[1] for one in merged)])
        self._ranges[begin:end] = [(lowest, greatest)]
        if self._ranges[0][0] <= self.low:
            self.low = self._ranges.pop(0)[1] + 1

    def gap(self, first: int, last: int) -> None:
        """The application was told of a gap, which counts as handled."""
        self.done(first, last)
        self._gap_ends.append(last + 1)
        if len(self._gap_ends) > _GAP_ENDS:
            del self._gap_ends[-2]

    def due(self, wire: int) -> int | None:
        """The position of the ack that has to be sent now (C16.2), at most ``wire`` (C16.1)."""
        position = min(self.low, wire)
        if position <= self._acked:
            return None
        is_half = len(self._delivered) >= self._half and self._delivered[self._half - 1] < position
        if not is_half and not any(self._acked < end <= position for end in self._gap_ends):
            return None
        return position

    def sent(self, position: int) -> None:
        """An ack is on its way."""
        self._acked = position
        self._gap_ends = [end for end in self._gap_ends if end > position]
        while self._delivered and self._delivered[0] < position:
            self._delivered.popleft()

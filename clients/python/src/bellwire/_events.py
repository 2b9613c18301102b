"""The events of a client's connections on asyncio."""

from __future__ import annotations

from collections import deque

from ._signal import Signal
from .core.events import ConnectionEvent, Ended, Missed


class ConnectionEvents:
    """An asynchronous iterator over the events from when it was made.

    Holds up to ``Config.held_events`` unread events; then the oldest are dropped, and `Missed` says how many.
    The last event is `Ended`.
    """

    def __init__(self, most: int, is_over: bool) -> None:
        self._most = most
        self._events: deque[ConnectionEvent] = deque()
        self._missed = 0
        self._is_over = is_over
        self._changed = Signal()

    def push(self, event: ConnectionEvent) -> None:
        """Takes an event."""
        if len(self._events) >= self._most:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._is_over = isinstance(event, Ended)
        self._changed.notify()

    def __aiter__(self) -> ConnectionEvents:
        return self

    async def __anext__(self) -> ConnectionEvent:
        """The next event. Nothing is lost when the task is cancelled."""
        while not self._events:
            if self._is_over:
                raise StopAsyncIteration
            await self._changed.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return Missed(missed)
        return self._events.popleft()

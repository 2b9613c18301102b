"""A streamed reply on asyncio."""

from __future__ import annotations

import warnings
from types import TracebackType

from ._driver import Driver
from ._signal import Signal
from .core.requests import Stream as Request


class Stream:
    """The items of a streamed reply: an asynchronous iterator, and an asynchronous context manager.

    It ends behind the last item, or raises the outcome (`Failed`, `Refused`, `Unknown` or `NotSent`) behind
    the items that came before it. It holds at most as many items as its window, each of them of at most one
    line. Leaving the ``async with`` block, or `close`, cancels a stream that has not ended.
    """

    def __init__(self, driver: Driver, request: Request, deadline: float | None) -> None:
        self._driver = driver
        self._request = request
        self._signal = Signal()
        self._is_closed = True  # until it has begun
        request.waker = self._signal.notify
        driver.core.submit(driver.now(), request, deadline)
        self._is_closed = False
        driver.schedule()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        """The next item. Nothing is lost when the task is cancelled."""
        self._driver.check_loop()
        while not self._is_closed:
            item = self._driver.core.take_item(self._driver.now(), self._request)
            if item is not None:
                self._driver.schedule()  # it may give credit
                return item
            if self._request.done:
                self._is_closed = True
                if self._request.error is not None:
                    raise self._request.error
                break
            await self._signal.wait()
        raise StopAsyncIteration

    def close(self) -> None:
        """Cancels the stream, unless it has ended. Its items are dropped."""
        if not self._is_closed:
            self._is_closed = True
            self._driver.give_up(self._request)
            self._signal.notify()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True) or self._request.done or self._driver.loop.is_closed():
            return
        warnings.warn(f"the stream of {self._request.method} was not closed", ResourceWarning, source=self)
        self._driver.loop.call_soon_threadsafe(self._driver.give_up, self._request)

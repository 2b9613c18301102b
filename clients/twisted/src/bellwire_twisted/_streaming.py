"""A streamed reply on Twisted: a callback for each item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bellwire.core.requests import Stream
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from ._driver import Driver

#: Takes an item. If it returns a Deferred, the next item waits for it.
OnItem = Callable[[bytes], Any]


class Reading:
    """Hands the items of a stream to the application, one at a time."""

    def __init__(self, driver: Driver, stream: Stream, onItem: OnItem) -> None:
        self._driver = driver
        self._stream = stream
        self._onItem = onItem
        self._isBusy = False
        self._isHandingOver = False
        #: Fires with None behind the last item, or fails with the outcome or the failure of ``onItem``.
        self.finished: Deferred[None] = Deferred(self._cancel)
        stream.waker = self._woken

    def _cancel(self, _: Deferred[None]) -> None:
        self._driver.give_up(self._stream)

    def _woken(self) -> None:
        if self._isHandingOver:
            return
        self._isHandingOver = True
        while not self._isBusy and not self.finished.called:
            item = self._driver.core.take_item(self._driver.now(), self._stream)
            if item is None:
                self._finish()
                break
            self._driver.schedule()  # it may give credit
            self._isBusy = True
            handled = maybeDeferred(self._onItem, item)
            handled.addCallbacks(self._handled, self._failed)
        self._isHandingOver = False

    def _handled(self, _: object) -> None:
        self._isBusy = False
        self._woken()  # the loop above goes on if it called this

    def _failed(self, failure: Failure) -> None:
        self._driver.give_up(self._stream)
        if not self.finished.called:
            self.finished.errback(failure)

    def _finish(self) -> None:
        if not self._stream.done:
            return
        if self._stream.error is not None:
            self.finished.errback(self._stream.error)
        else:
            self.finished.callback(None)

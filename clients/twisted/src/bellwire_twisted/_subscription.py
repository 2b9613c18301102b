"""A subscription on Twisted: a callback for each delivery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bellwire import After, Delivery, End, Message, Position
from bellwire.core.subscription import Subscription as Handle
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure

from ._driver import Driver

#: Takes a delivery. If it returns a Deferred, the next delivery waits for it.
OnDelivery = Callable[[Delivery], Any]


class Subscription:
    """A topic that the application listens to, over all connections.

    Deliveries are handed over one at a time: while the Deferred of one is not fired, later ones are held, up
    to ``Config.inbox_items`` and ``Config.inbox_bytes``. Then the oldest are dropped, and reported as a `Gap`
    with the reason ``lagged``.
    """

    def __init__(self, driver: Driver, handle: Handle, onDelivery: OnDelivery) -> None:
        self._driver = driver
        self._handle = handle
        self._onDelivery = onDelivery
        self._isBusy = False
        self._isHandingOver = False
        self._isPaused = False
        self._waiting: list[tuple[Position, Deferred[None]]] = []
        self._begun: Deferred[Subscription] = Deferred(lambda _: self.unsubscribe())
        #: Fires behind the last delivery: with the `End`, or with None after `unsubscribe`. Fails with the
        #: failure of ``onDelivery``, which ends the subscription.
        self.finished: Deferred[End | None] = Deferred(lambda _: self.unsubscribe())
        handle.waker = self._woken

    def begin(self, deadline: float | None) -> Deferred[Subscription]:
        """Asks the server. Fires once it has accepted."""
        self._driver.core.subscribe(self._driver.now(), self._handle, deadline)
        self._driver.schedule()
        return self._begun

    @property
    def topic(self) -> str:
        return self._handle.topic

    @property
    def position(self) -> Position:
        """The position behind all that was handed over. Subscribe from it to go on later."""
        assert self._handle.taken is not None  # there is one from the first ok on
        return self._handle.taken

    @property
    def unacknowledged(self) -> Position | None:
        """The lowest number that is not acknowledged; ``None`` without a window."""
        return self._handle.unacknowledged

    def ack(self, what: Message | Position) -> None:
        """Acknowledges one message, in any order, or everything below a position that was handed over.

        Only for subscriptions with ``ack="hand"`` or ``redeliver=True``; raises ``ValueError`` otherwise.
        """
        terms = self._handle.terms
        if not terms.by_hand and not terms.redeliver:
            raise ValueError('this subscription acknowledges by itself: ask for ack="hand" or redeliver=True')
        self._driver.core.ack(self._driver.now(), self._handle, what)
        self._driver.schedule()

    def pause(self) -> None:
        """Hands nothing over until `resume`. What comes is held up to the bounds."""
        self._isPaused = True

    def resume(self) -> None:
        """Hands deliveries over again."""
        self._isPaused = False
        self._driver.reactor.callLater(0, self._woken)

    def seen(self, after: After | Position) -> Deferred[None]:
        """Fires once everything below the position was handed over, or cannot come any more.

        Raises ``ValueError`` if the `After` is of another topic.
        """
        if isinstance(after, After):
            if after.topic != self.topic:
                raise ValueError(f"this is a subscription to {self.topic}, not to {after.topic}")
            after = after.position
        waiting: Deferred[None] = Deferred(lambda one: self._forget(one))
        self._waiting.append((after, waiting))
        self._tellSeen()
        return waiting

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiting = [one for one in self._waiting if one[1] is not waiting]

    def _tellSeen(self) -> None:
        seen = [one for one in self._waiting if self._handle.has_seen(one[0])]
        self._waiting = [one for one in self._waiting if one not in seen]
        for _, waiting in seen:
            if not waiting.called:  # the callback of an earlier one may have cancelled it
                waiting.callback(None)

    def unsubscribe(self) -> None:
        """Leaves the topic. Nothing more is delivered. The server is told soon, and not waited for."""
        self._driver.unsubscribe(self._handle)
        self._over(None)

    def _over(self, end: End | None) -> None:
        if not self._begun.called:
            self._begun.errback(CancelledError())
        if not self.finished.called:
            self.finished.callback(end)

    # Deliveries.

    def _woken(self) -> None:
        self._tellBegun()
        if not self._isHandingOver:
            self._isHandingOver = True
            self._handOver()
            self._isHandingOver = False
        self._tellSeen()

    def _handOver(self) -> None:
        while not self._isBusy and not self._isPaused and self._begun.called and not self.finished.called:
            delivery = self._driver.core.take(self._driver.now(), self._handle)
            if delivery is None:
                break
            self._driver.schedule()  # it may be acknowledged
            self._isBusy = True
            handled = maybeDeferred(self._onDelivery, delivery)
            handled.addCallbacks(self._handled, self._failed, callbackArgs=(delivery,))

    def _tellBegun(self) -> None:
        if self._begun.called:
            return
        if self._handle.error is not None:
            self.finished.addErrback(lambda _: None)
            self._begun.errback(self._handle.error)
            self.finished.callback(None)
        elif self._handle.is_accepted:
            self._begun.callback(self)

    def _handled(self, _: object, delivery: Delivery) -> None:
        self._isBusy = False
        if isinstance(delivery, End):
            return self._over(delivery)
        self._woken()  # the loop above goes on if it called this

    def _failed(self, failure: Failure) -> None:
        self._driver.unsubscribe(self._handle)
        if not self.finished.called:
            self.finished.errback(failure)

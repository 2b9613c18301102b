"""A subscription on asyncio."""

from __future__ import annotations

import warnings
from types import TracebackType

from ._driver import Driver
from ._signal import Signal
from .core.subscription import Stage
from .core.subscription import Subscription as Handle
from .values import After, Delivery, End, Message, Position


class Subscription:
    """The deliveries of a topic: an asynchronous iterator, and an asynchronous context manager.

    It yields `Message`, `Gap`, `Reset` and, as its last item, `End`. It goes on over lost connections. What
    the application does not take is held up to ``Config.inbox_items`` and ``Config.inbox_bytes``; then the
    oldest are dropped, and reported as a `Gap` with the reason ``lagged``.
    """

    def __init__(self, driver: Driver, handle: Handle) -> None:
        self._driver = driver
        self._handle = handle
        self._signal = Signal()
        self._is_closed = True  # until it has begun
        handle.waker = self._signal.notify

    @property
    def topic(self) -> str:
        return self._handle.topic

    @property
    def position(self) -> Position:
        """The position behind all that was taken. Subscribe from it to go on later."""
        assert self._handle.taken is not None  # there is one from the first ok on
        return self._handle.taken

    @property
    def unacknowledged(self) -> Position | None:
        """The lowest number that is not acknowledged; ``None`` without a window.

        With acks by hand, or redelivery, this is the position to subscribe from to go on later.
        """
        return self._handle.unacknowledged

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Delivery:
        """The next delivery. Nothing is lost when the task is cancelled."""
        self._driver.check_loop()
        while not self._is_closed:
            delivery = self._driver.core.take(self._driver.now(), self._handle)
            if delivery is not None:
                self._is_closed = isinstance(delivery, End)
                self._signal.notify()  # for `seen`
                self._driver.schedule()  # for acks
                return delivery
            await self._signal.wait()
        raise StopAsyncIteration

    def ack(self, what: Message | Position) -> None:
        """Acknowledges one message, in any order, or everything below a position that was taken.

        Only for subscriptions with ``ack="hand"`` or ``redeliver=True``; raises ``ValueError`` otherwise.
        What is of another epoch than the present one has no effect.
        """
        terms = self._handle.terms
        if not terms.by_hand and not terms.redeliver:
            raise ValueError('this subscription acknowledges by itself: ask for ack="hand" or redeliver=True')
        self._driver.core.ack(self._driver.now(), self._handle, what)
        self._driver.schedule()

    async def seen(self, after: After | Position) -> None:
        """Waits until the application has taken everything below the position, or cannot get it any more.

        Another task has to read the subscription meanwhile. Raises ``ValueError`` if the `After` is of
        another topic.
        """
        if isinstance(after, After):
            if after.topic != self.topic:
                raise ValueError(f"this is a subscription to {self.topic}, not to {after.topic}")
            after = after.position
        while not self._handle.has_seen(after):
            await self._signal.wait()

    def unsubscribe(self) -> None:
        """Leaves the topic. Nothing more is delivered. The server is told soon, and not waited for."""
        if not self._is_closed:
            self._is_closed = True
            self._driver.unsubscribe(self._handle)
            self._signal.notify()

    async def begin(self, deadline: float | None) -> None:
        """Asks the server, and waits for its answer."""
        self._driver.core.subscribe(self._driver.now(), self._handle, deadline)
        self._is_closed = False
        self._driver.schedule()
        try:
            while not self._handle.is_accepted and self._handle.error is None:
                await self._signal.wait()
        except BaseException:
            self.unsubscribe()
            raise
        if self._handle.error is not None:
            self._is_closed = True
            raise self._handle.error

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unsubscribe()

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True) or self._handle.stage is Stage.OVER or self._driver.loop.is_closed():
            return
        warnings.warn(f"the subscription to {self.topic} was not closed", ResourceWarning, source=self)
        self._driver.loop.call_soon_threadsafe(self._driver.unsubscribe, self._handle)

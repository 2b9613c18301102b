"""The subscriptions of a client, on whatever connection they are (sections 4, 13, 14 and 16)."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import CallError, ConnectionFailure, Failed, NotSent, Refused, Unknown
from . import grammar
from .backoff import pause
from .events import RenewalFailed, Violation
from .lines import Malformed, Notification, ReplyLine
from .link import Entry, Kind, Link
from .notices import EndNotice, GapNotice, ResetNotice
from .subscription import Stage, Subscription

if TYPE_CHECKING:
    from .core import Core

#: How long a subscription has to live to be asked for again without a pause (C4.5).
_SETTLED = 10.0


class Topics:
    """The topics that the application listens to."""

    def __init__(self, core: Core, config: Config, rng: random.Random) -> None:
        self._core = core
        self._config = config
        self._rng = rng
        #: What the application listens to.
        self._wanted: dict[str, Subscription] = {}
        #: Those to be asked for, those that pause before that, and those that had no ``ok`` yet.
        self._idle: dict[Subscription, None] = {}
        self._paused: dict[Subscription, float] = {}
        self._first: dict[Subscription, None] = {}

    # The application.

    def subscribe(self, now: float, subscription: Subscription, deadline: float | None) -> None:
        """Begins a subscription. Raises ``ValueError`` if the client already listens to the topic."""
        if subscription.topic in self._wanted:
            raise ValueError(f"this client already listens to {subscription.topic!r}")
        seconds = self._config.deadline if deadline is None else deadline
        subscription.deadline = now + seconds
        if seconds <= 0:
            return self._refuse(subscription, NotSent("deadline", "nothing was left of the deadline"))
        if not self._core.may_send:
            return self._refuse(subscription, NotSent("closed", self._core.why_ended()))
        self._wanted[subscription.topic] = subscription
        self._first[subscription] = None
        self._idle[subscription] = None

    def unsubscribe(self, subscription: Subscription) -> None:
        """The application leaves the topic. Nothing more is delivered."""
        if not subscription.is_wanted:
            return
        subscription.is_wanted = False
        subscription.inbox.clear()
        self._forget(subscription)
        self._take_back(subscription)
        link = self._link_of(subscription)
        if link and subscription.stage is Stage.LISTENING:
            self._leave(link, subscription)
        elif not link:
            subscription.stage = Stage.OVER
        self._core.wake(subscription)

    def _forget(self, subscription: Subscription) -> None:
        if self._wanted.get(subscription.topic) is subscription:
            del self._wanted[subscription.topic]
        for kept in (self._idle, self._first):
            kept.pop(subscription, None)
        self._paused.pop(subscription, None)

    def _take_back(self, subscription: Subscription) -> bool:
        """Takes its ``/subscribe`` out of the queue. Returns true if it was offered to the transport before."""
        link = self._link_of(subscription)
        if link is None or subscription.stage is not Stage.ASKED:
            return False
        entry = next(entry for entry in link.table.values() if entry.subscription is subscription)
        if not entry.is_offered:
            link.take_back(entry)
            del link.topics[subscription.topic]
        return entry.is_offered

    def _link_of(self, subscription: Subscription) -> Link | None:
        on = (link for link in self._core.links.values() if link.topics.get(subscription.topic) is subscription)
        return next(on, None)

    def acknowledge(self, subscription: Subscription) -> None:
        """Sends the ack that is due, if any."""
        link = self._link_of(subscription) if subscription.terms.window else None
        position = subscription.due_ack() if link else None
        if link and position:
            link.ack(subscription.topic, str(position))

    # Asking.

    def pump(self, now: float) -> None:
        """Asks for what is to be asked for."""
        if not self._idle:
            return
        link = self._core.current
        if link is None:
            if not self._core.may_connect:
                for subscription in list(self._idle):
                    self._lose(subscription, NotSent("closed", self._core.why_ended()))
            return
        for subscription in list(self._idle):
            if subscription.topic not in link.topics:
                self._ask(now, link, subscription)

    def _ask(self, now: float, link: Link, subscription: Subscription) -> None:
        del self._idle[subscription]
        if subscription.is_exhausted:
            return self._end(subscription, "exhausted")
        if subscription in self._first and now >= subscription.deadline:
            return self._expire(subscription)
        subscription.stage = Stage.ASKED
        link.topics[subscription.topic] = subscription
        topic, attributes = subscription.topic.encode(), subscription.attributes()
        link.send(Kind.SUBSCRIBE, "/subscribe", topic, attributes, subscription=subscription)
        self._core.keep_alive.subscribed(now, link)

    def _leave(self, link: Link, subscription: Subscription) -> None:
        subscription.stage = Stage.LEAVING
        if link.takes_requests:
            topic = subscription.topic.encode()
            link.send(Kind.UNSUBSCRIBE, "/unsubscribe", topic, subscription=subscription)

    def _pause(self, now: float, subscription: Subscription, retry: float | None = None) -> None:
        """Asks again after a pause (section 14.8)."""
        if now - subscription.accepted_at >= _SETTLED:
            subscription.pauses = 0
        after = pause(subscription.pauses, retry, self._config, self._rng)
        if retry is not None:
            longest = min(retry, self._config.reconnect_max)
            after = max(after, retry + longest * self._rng.uniform(0.1, 1.0))
        subscription.pauses += 1
        subscription.stage = Stage.PAUSED
        self._paused[subscription] = now + after

    def _resume(self, now: float, link: Link, subscription: Subscription) -> None:
        """Asks again: at once where the subscription lived for a while, or on the next connection."""
        has_settled = now - subscription.accepted_at >= _SETTLED
        if link.bye_reason is not None or has_settled:
            subscription.pauses = 0 if has_settled else subscription.pauses
            self._again(subscription)
        else:
            self._pause(now, subscription)

    def _again(self, subscription: Subscription) -> None:
        subscription.stage = Stage.IDLE
        self._idle[subscription] = None

    # Replies.

    def replied(self, now: float, link: Link, entry: Entry, line: ReplyLine) -> None:
        """A line for a ``/subscribe`` or ``/unsubscribe``. Raises `Malformed` at an ``ok`` that lacks something."""
        subscription = entry.subscription
        assert subscription is not None
        if line.word == "more":
            return
        if entry.kind is Kind.UNSUBSCRIBE:
            link.remove(entry)
            self._left(now, link, subscription)
        elif line.word == "ok":
            epoch, next = line.attributes.get("epoch", ""), grammar.number(line.attributes.get("next"))
            if next is None or not grammar.is_epoch(epoch):
                raise Malformed("the server accepted a /subscribe and did not say where it begins")
            link.remove(entry)
            self._accepted(now, link, subscription, epoch, next)
        else:
            link.remove(entry)
            del link.topics[subscription.topic]
            self._refused(now, link, subscription, line)

    def _left(self, now: float, link: Link, subscription: Subscription) -> None:
        del link.topics[subscription.topic]
        if not subscription.is_wanted:
            subscription.stage = Stage.OVER
        elif link.bye_reason is not None:
            self._again(subscription)
        else:
            self._pause(now, subscription)

    def _accepted(
        self, now: float, link: Link, subscription: Subscription, epoch: str, next: int
    ) -> None:
        if not subscription.is_wanted:
            return self._leave(link, subscription)
        subscription.stage = Stage.LISTENING
        self._first.pop(subscription, None)
        if not subscription.begun(epoch, next, now):
            self._leave(link, subscription)
        self._core.wake(subscription)

    def _refused(self, now: float, link: Link, subscription: Subscription, line: ReplyLine) -> None:
        if not subscription.is_wanted:
            subscription.stage = Stage.OVER
        elif line.code == "closing" and line.word == "no" and link.bye_reason is not None:
            self._closing(subscription, line)
        elif not subscription.is_accepted:
            self._refuse(subscription, _error(line))
        elif line.word == "no" and (line.code == "busy" or line.retry is not None):
            self._pause(now, subscription, line.retry)
        else:
            self._end(subscription, line.code)

    def _closing(self, subscription: Subscription, line: ReplyLine) -> None:
        if self._core.may_reconnect:
            self._again(subscription)
        elif subscription.is_accepted:
            self._end(subscription, line.code)
        else:
            self._refuse(subscription, _error(line))

    def _on_next(self, subscription: Subscription, otherwise: CallError) -> None:
        if self._core.may_reconnect:
            self._again(subscription)
        else:
            self._lose(subscription, otherwise)

    def _lose(self, subscription: Subscription, error: CallError) -> None:
        """There is no connection for it any more."""
        if not subscription.is_accepted:
            return self._refuse(subscription, error)
        self._forget(subscription)
        subscription.lose()
        self._core.wake(subscription)

    def _refuse(self, subscription: Subscription, error: CallError) -> None:
        """The first ``/subscribe`` failed, and the task that asked is told."""
        self._forget(subscription)
        subscription.error = error
        subscription.stage = Stage.OVER
        self._core.wake(subscription)

    def _end(self, subscription: Subscription, reason: str) -> None:
        self._forget(subscription)
        subscription.end(reason)
        self._core.wake(subscription)

    def renewed(self, link: Link, entry: Entry, line: ReplyLine, now: float) -> None:
        """A line for a ``/renew`` (C4.5, C4.6, section 13.4)."""
        assert entry.listed is not None
        if line.word in ("ok", "more"):
            self._listed(link, entry.listed, line.body)
        if line.word == "more":
            return
        link.remove(entry)
        link.unanswered_renewals -= 1
        if line.word != "ok":
            return self._not_renewed(link, line)
        for topic, subscription in list(link.topics.items()):
            if topic not in entry.listed and subscription.stage is Stage.LISTENING:
                del link.topics[topic]
                self._resume(now, link, subscription)

    def _listed(self, link: Link, listed: set[str], body: bytes) -> None:
        for text in body.decode("latin-1").split(" "):
            topic, _, position = text.partition(":")
            subscription, found = link.topics.get(topic), grammar.position(position)
            if subscription is None:
                continue
            listed.add(topic)
            if found and subscription.stage is Stage.LISTENING:
                subscription.listed(found)
                self._core.wake(subscription)
                self.acknowledge(subscription)

    def _not_renewed(self, link: Link, line: ReplyLine) -> None:
        if line.word == "err" and line.code == "too-large" and not link.cannot_list:
            link.lists_in_lines = True
        elif line.code == "unknown-attribute" and link.lists_in_lines and not link.cannot_list:
            link.cannot_list = True
        else:
            return self._core.report(RenewalFailed(line.code))
        if link.takes_requests:
            self._core.keep_alive.renew(link)

    # Notifications and notices.

    def notification(self, link: Link, line: Notification) -> None:
        subscription = self._listener(link, line.topic)
        if subscription:
            self._heard(subscription, subscription.message(line.sequence, line.payload))

    def notice(self, now: float, link: Link, notice: GapNotice | ResetNotice | EndNotice) -> None:
        subscription = self._listener(link, notice.topic)
        if subscription is None:
            return
        match notice:
            case GapNotice():
                taken = subscription.gap(notice.epoch, notice.first, notice.last, notice.reason)
                self._heard(subscription, taken)
            case ResetNotice():
                self._heard(subscription, subscription.reset(notice.position))
            case EndNotice():
                self._ended(now, link, subscription, notice)

    def _listener(self, link: Link, topic: str) -> Subscription | None:
        subscription = link.topics.get(topic)
        if subscription is None or subscription.stage is Stage.ASKED:
            self._violation(topic)
            return None
        return subscription if subscription.stage is Stage.LISTENING else None

    def _heard(self, subscription: Subscription, is_in_order: bool) -> None:
        if not is_in_order:
            self._violation(subscription.topic)
        self.acknowledge(subscription)
        self._core.wake(subscription)

    def _violation(self, topic: str) -> None:
        self._core.stats.violations += 1
        self._core.report(Violation(topic))

    def _ended(self, now: float, link: Link, subscription: Subscription, notice: EndNotice) -> None:
        del link.topics[subscription.topic]
        if notice.reason in ("expired", "shutdown"):
            subscription.interrupted(notice.reason, notice.head)
            self._resume(now, link, subscription)
        else:
            self._end(subscription, notice.reason)

    # The end of a connection, and time.

    def link_lost(self, link: Link, error: ConnectionFailure) -> None:
        asked = {entry.subscription for entry in link.table.values() if entry.is_offered}
        for subscription in list(link.topics.values()):
            if not subscription.is_wanted:
                subscription.stage = Stage.OVER
            else:
                kind = Unknown if subscription in asked else NotSent
                self._on_next(subscription, kind("lost", f"the connection was lost: {error}"))
        link.topics.clear()

    def close(self, reason: str) -> None:
        """The client ends: each subscription with it."""
        for subscription in list(self._wanted.values()):
            if subscription.is_accepted:
                self._end(subscription, reason)
            else:
                self._refuse(subscription, NotSent("closed", self._core.why_ended()))
            subscription.is_wanted = False

    def due(self) -> float:
        deadlines = min((one.deadline for one in self._first), default=math.inf)
        return min(deadlines, min(self._paused.values(), default=math.inf))

    def tick(self, now: float) -> None:
        for subscription, until in list(self._paused.items()):
            if now >= until:
                del self._paused[subscription]
                self._again(subscription)
        for subscription in [one for one in self._first if now >= one.deadline]:
            self._expire(subscription)

    def _expire(self, subscription: Subscription) -> None:
        """The deadline of the first ``/subscribe`` is over."""
        was_offered = self._take_back(subscription)
        kind = Unknown if was_offered else NotSent
        subscription.is_wanted = False
        self._refuse(subscription, kind("deadline", "the deadline ended before the server answered"))
        if was_offered:
            subscription.stage = Stage.ASKED  # it is left at the ok


def _error(line: ReplyLine) -> CallError:
    match line.word:
        case "err":
            return Failed(line.code, line.text)
        case "cut":
            return Unknown(line.code, line.text)
    return Refused(line.code, line.text, line.retry)

"""What a client sends of its own accord, and when a silent server is given up (C4.4, C7.1, section 20.6)."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import ClientClosed, ClosedByServer, SilentServer
from .link import Entry, Kind, Link, Phase

if TYPE_CHECKING:
    from .core import Core

#: When the first line of a connection is sent at the latest; the server waits for 10 s.
_FIRST_LINE = 5.0
#: Renewals without an answer, at most.
_UNANSWERED = 4


class KeepAlive:
    """The timers of each connection."""

    def __init__(self, core: Core, config: Config, rng: random.Random) -> None:
        self._core = core
        self._config = config
        self._rng = rng

    def opened(self, now: float, link: Link) -> None:
        """The connection is ready."""
        if link.last_id == 0:
            link.first_line_at = now + _FIRST_LINE
        self._schedule(now, link)

    def subscribed(self, now: float, link: Link) -> None:
        """A ``/subscribe`` was sent: from now on there is a lease."""
        if math.isinf(link.renew_at):
            link.renew_at = now + self._renewal(link)

    def _schedule(self, now: float, link: Link) -> None:
        assert link.hello
        needs_it = link.topics or link.hello.idle
        link.renew_at = now + self._renewal(link) if needs_it and link.takes_requests else math.inf

    def _renewal(self, link: Link) -> float:
        return link.lease * self._rng.uniform(0.5, 0.75)

    def renew(self, link: Link) -> Entry:
        """Sends a ``/renew`` now."""
        link.unanswered_renewals += 1
        attributes = {"list": "more"} if link.lists_in_lines and not link.cannot_list else {}
        entry = link.send(Kind.RENEW, "/renew", attributes=attributes)
        entry.listed = set()
        return entry

    def heard(self, now: float, link: Link) -> None:
        """Bytes came."""
        link.heard_at = now
        link.probe, link.probed_at = None, math.inf

    def observe(self, now: float, link: Link) -> None:
        """Notes since when something is due from the server."""
        if not link.table and not link.topics:
            link.busy_since = None
        elif link.busy_since is None:
            link.busy_since = now

    # Time.

    def due(self, link: Link) -> float:
        if link.phase < Phase.OPEN:
            return math.inf
        first_line = link.first_line_at if link.last_id == 0 else math.inf
        return min(link.renew_at, first_line, link.quit_by, self._silence_at(link))

    def _silence_at(self, link: Link) -> float:
        """When silence has lasted for so long that something has to be done."""
        if link.phase is Phase.LEFT:
            return link.heard_at + self._config.left_silence
        if link.busy_since is None or not link.takes_requests:
            return math.inf
        if link.probe is not None:
            return link.probed_at + self._config.probe_answer
        return max(link.heard_at, link.busy_since) + self._config.probe

    def tick(self, now: float, link: Link) -> None:
        if now >= link.quit_by:
            return self._core.link_over(now, link.number, ClientClosed())
        if now >= link.first_line_at:
            link.first_line_at = math.inf
            if link.last_id == 0 and link.takes_requests:
                self.renew(link)
        if now >= link.renew_at:
            if link.takes_requests and link.unanswered_renewals < _UNANSWERED:
                self.renew(link)
            self._schedule(now, link)
        if now >= self._silence_at(link):
            self._is_silent(now, link)

    def _is_silent(self, now: float, link: Link) -> None:
        if link.phase is Phase.LEFT:
            return self._core.link_over(now, link.number, ClosedByServer(link.bye_reason or "closing"))
        if link.probe is None:
            link.probe, link.probed_at = self.renew(link), now
        elif link.probe.is_offered or now >= link.heard_at + self._config.left_silence:
            self._core.link_over(now, link.number, SilentServer("the server did not answer a probe"))
        else:
            link.probed_at = now  # the transport has not taken the probe: its time has not begun

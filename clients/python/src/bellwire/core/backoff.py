"""When a client repeats what it does by itself: windows that double (C5.3, C5.6, section 14)."""

from __future__ import annotations

import random

from ..config import Config


class Backoff:
    """The windows between two attempts to connect. One random number serves a whole row of them."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._windows = 0
        self._end = 0.0
        self._point = rng.random()

    def begin_row(self, now: float, held: float) -> None:
        """A connection that was open for ``held`` seconds is lost, or its server said ``/bye``."""
        if held >= self._config.reconnect_stable:
            self._windows = 0
        self._end = now
        self._point = self._rng.random()

    def next(self, now: float, not_before: float) -> float:
        """When the next round begins; ``not_before`` is when an address may be tried (C5.4)."""
        begin = max(self._end, now, not_before)
        window = window_of(self._windows, self._config)
        if not_before > now:
            window = max(window, min(not_before - now, self._config.reconnect_max))
        self._windows += 1
        self._end = begin + window
        return begin + (0.1 + 0.9 * self._point) * window


def window_of(count: int, config: Config) -> float:
    """The length of window ``count``, from 0."""
    return min(config.reconnect_max, config.reconnect_base * 2.0 ** min(count, 64))


def pause(count: int, retry: float | None, config: Config, rng: random.Random) -> float:
    """The seconds before a repetition: the ``retry`` of the server, and a random part of a window."""
    return (retry or 0.0) + rng.uniform(0.1, 1.0) * window_of(count, config)

"""The limits of a client, each with its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .values import MAX_NUMBER


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The limits of a client. Times are in seconds. A value out of its range raises ``ValueError``.

    >>> Config(in_flight=16).deadline
    60.0
    """

    #: Calls in flight at once; further calls wait. The lower of this and the server's limit applies.
    in_flight: int = 1_024
    #: The longest line that is accepted from the server, LF included; at least 1,024. Another value than
    #: the default is told to the server.
    max_line: int = 65_535
    #: Bytes of requests that are not yet offered to the transport, beyond which further calls wait.
    outbound_bytes: int = 256 * 1_024
    #: Calls that may wait for a connection, a place in flight, the transport, or the time of a retry hint. One
    #: more is not sent; one with a hint is refused.
    waiting_calls: int = 65_536
    #: Bytes of the payloads of these calls.
    waiting_bytes: int = 64 * 1_024 * 1_024
    #: Deliveries that a subscription holds until the application takes them. Past this limit or the next
    #: one the oldest are dropped, and reported as a gap with the reason ``lagged``.
    inbox_items: int = 32_768
    #: Bytes of the payloads of these deliveries.
    inbox_bytes: int = 1_024 * 1_024
    #: Bytes of the list of ``/methods``; a longer one ends the call as unknown.
    methods_bytes: int = 4 * 1_024 * 1_024
    #: Connection events that an iterator holds; past it the oldest are dropped, and counted.
    held_events: int = 256
    #: The deadline of a call that names none; ``math.inf`` for none. The server is not told of it.
    deadline: float = 60.0
    #: Time for a round of attempts to connect, ``/hello`` and ``/auth`` included.
    connect_timeout: float = 10.0
    #: Time for a close in order, from ``/quit`` until the server has closed.
    close_timeout: float = 40.0
    #: Silence after which the client probes the server, while a reply is due or something is subscribed.
    probe: float = 10.0
    #: Time that the server then has to answer.
    probe_answer: float = 10.0
    #: Silence that ends a connection after ``/bye;last=N``, where no probe may be sent.
    left_silence: float = 40.0
    #: The first window of the pauses before an attempt to reconnect. Each is twice the one before.
    reconnect_base: float = 0.25
    #: The longest of these windows.
    reconnect_max: float = 30.0
    #: How long a connection has to hold before the windows begin anew.
    reconnect_stable: float = 10.0
    #: How long the client tries to connect before it ends; ``math.inf`` for ever.
    give_up_after: float = math.inf
    #: Close the connection on a reply that was doubled or not asked for. By default it is only counted.
    strict: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) is not (field.name == "strict"):
                raise ValueError(f"{field.name} has the wrong type: {value!r}")
            if not isinstance(value, bool):
                self._check(field.name, value)

    def _check(self, name: str, value: float) -> None:
        least = 1_024 if name == "max_line" else 0.01 if name == "reconnect_base" else 1e-3
        is_whole = name in _WHOLE
        if is_whole and (not isinstance(value, int) or not 1 <= value <= MAX_NUMBER):
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not value >= least or (math.isinf(value) and name not in ("deadline", "give_up_after")):
            raise ValueError(f"{name} must be finite and at least {least}, not {value!r}")


_WHOLE = {field.name for field in fields(Config) if field.type == "int"}

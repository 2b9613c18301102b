"""Requests and subscriptions from the arguments of an application, which are checked here.

Each function raises ``ValueError`` or ``TypeError`` that says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from ..config import Config
from ..values import MAX_NUMBER, Position
from . import grammar
from .inbox import Inbox
from .requests import Call, Methods, OneWay, Publish, Stream
from .subscription import Subscription, Terms

Slow = Literal["gap", "latest", "close"]
Ack = Literal["auto", "hand"]
#: Text is sent as UTF-8.
Payload = str | bytes | bytearray | memoryview


def call(
    method: str, payload: Payload, key: str | None, idempotent: bool, attributes: Mapping[str, str] | None
) -> Call:
    checked = grammar.check_attributes(attributes or {})
    request = Call(grammar.check_method(method), grammar.as_bytes(payload), checked)
    request.key = None if key is None else grammar.check_value("key", key)
    request.idempotent = idempotent
    return request


def stream(
    method: str, payload: Payload, window: int | None, attributes: Mapping[str, str] | None
) -> Stream:
    checked = grammar.check_attributes(attributes or {})
    if window is not None:
        _check_count("window", window)
    return Stream(grammar.check_method(method), grammar.as_bytes(payload), checked, window)


def one_way(method: str, payload: Payload, attributes: Mapping[str, str] | None) -> OneWay:
    checked = grammar.check_attributes(attributes or {})
    return OneWay(grammar.check_method(method), grammar.as_bytes(payload), checked)


def publish(topic: str, payload: Payload, key: str | None) -> Publish:
    name, encoded = grammar.check_topic(topic).encode(), grammar.as_bytes(payload)
    request = Publish("/publish", name + b" " + encoded if encoded else name)
    request.key = None if key is None else grammar.check_value("key", key)
    return request


def methods(config: Config) -> Methods:
    return Methods(config.methods_bytes)


def subscription(
    config: Config,
    topic: str,
    start: Position | str | None,
    last: int | None,
    window: int | None,
    slow: Slow | None,
    ack: Ack,
    redeliver: bool,
) -> Subscription:
    if start is not None and last is not None:
        raise ValueError("a subscription begins at start= or with the last= messages, not both")
    for name, count in (("last", last), ("window", window)):
        if count is not None:
            _check_count(name, count)
    if slow not in (None, "gap", "latest", "close"):
        raise ValueError(f"slow must be gap, latest or close, not {slow!r}")
    if ack not in ("auto", "hand"):
        raise ValueError(f"ack must be auto or hand, not {ack!r}")
    if (ack == "hand" or redeliver) and window is None:
        raise ValueError('ack="hand" and redeliver=True need a window: without one nothing waits for acks')
    terms = Terms(_start(start), last, window, slow, ack == "hand", redeliver)
    return Subscription(grammar.check_topic(topic), terms, Inbox(config.inbox_items, config.inbox_bytes))


def deadline(seconds: float | None) -> float | None:
    """The deadline of a caller, in seconds. A finite one has a bound, so that milliseconds can be counted."""
    if seconds is None or seconds == math.inf:
        return seconds
    if not seconds >= 0:
        raise ValueError(f"deadline must be a number of seconds, not {seconds!r}")
    return min(seconds, MAX_NUMBER)


def _start(start: Position | str | None) -> Position | None:
    """Where a subscription begins. A `Position` that the application has made is checked like a text."""
    if start is None:
        return None
    if not isinstance(start, (Position, str)):
        raise TypeError(f"start has to be a Position or str, not {type(start).__name__}")
    return Position.parse(str(start))


def _check_count(name: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_NUMBER:
        raise ValueError(f"{name} must be a whole number of at least 1, not {count!r}")

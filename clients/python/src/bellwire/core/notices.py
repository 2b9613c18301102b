"""The notices that a client knows, taken apart (sections 4, 13 and 18). Others are ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..values import Position
from . import grammar
from .lines import Malformed, Notice


@dataclass(slots=True)
class GapNotice:
    topic: str
    epoch: str
    first: int
    last: int
    reason: str


@dataclass(slots=True)
class ResetNotice:
    topic: str
    position: Position


@dataclass(slots=True)
class EndNotice:
    topic: str
    reason: str
    #: The last number of the log, if not everything of it was delivered.
    head: int


@dataclass(slots=True)
class ByeNotice:
    last: int | None
    retry: float | None
    reason: str


@dataclass(slots=True)
class ErrorNotice:
    id: int | None
    code: str
    text: str


KnownNotice: TypeAlias = GapNotice | ResetNotice | EndNotice | ByeNotice | ErrorNotice


def read(notice: Notice) -> KnownNotice | None:
    """A notice that the client knows. Raises `Malformed` if it lacks something."""
    match notice.name:
        case "/gap":
            return _gap(notice)
        case "/reset":
            return ResetNotice(_topic(notice, 0), _position(notice, 1))
        case "/end":
            _position(notice, 2)
            head = _attribute(notice, "head") or 0
            return EndNotice(_topic(notice, 0), _code(notice, 1), head)
        case "/bye":
            return _bye(notice)
        case "/error":
            text = grammar.printable(b" ".join(notice.arguments[1:]))
            return ErrorNotice(_attribute(notice, "id"), _code(notice, 0), text)
    return None


def _gap(notice: Notice) -> GapNotice:
    epoch, first, last = _argument(notice, 1), _number(notice, 2), _number(notice, 3)
    if not grammar.is_epoch(epoch) or first > last:
        raise _fault(notice)
    return GapNotice(_topic(notice, 0), epoch, first, last, _code(notice, 4))


def _bye(notice: Notice) -> ByeNotice:
    last, retry = _attribute(notice, "last", 0), _attribute(notice, "retry")
    if last is None and notice.arguments == [b""]:
        reason = "closing"
    else:
        reason = _code(notice, 0)
    return ByeNotice(last, None if retry is None else retry / 1000, reason)


def _fault(notice: Notice) -> Malformed:
    return Malformed(f"the server wrote a malformed {notice.name}")


def _argument(notice: Notice, index: int) -> str:
    return notice.arguments[index].decode("latin-1") if index < len(notice.arguments) else ""


def _topic(notice: Notice, index: int) -> str:
    topic = _argument(notice, index)
    if not grammar.is_name(topic):
        raise _fault(notice)
    return topic


def _code(notice: Notice, index: int) -> str:
    code = _argument(notice, index)
    if not grammar.is_code(code):
        raise _fault(notice)
    return code


def _number(notice: Notice, index: int) -> int:
    found = grammar.number(_argument(notice, index))
    if found is None:
        raise _fault(notice)
    return found


def _position(notice: Notice, index: int) -> Position:
    found = grammar.position(_argument(notice, index))
    if found is None:
        raise _fault(notice)
    return found


def _attribute(notice: Notice, key: str, least: int = 1) -> int | None:
    if key not in notice.attributes:
        return None
    found = grammar.number(notice.attributes[key], least)
    if found is None:
        raise _fault(notice)
    return found

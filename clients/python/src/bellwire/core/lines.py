"""The lines of both directions (sections 2 and 11): the parser, the encoder, and the splitter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ProtocolFault
from ..values import MAX_NUMBER
from . import grammar
from .grammar import MAX_ATTRIBUTES, MAX_HEAD, MAX_NAME

_LINE = re.compile(
    rb"(?:([1-9][0-9]{0,15}) (ok|more|err|no|cut)"
    rb"|\* (/?[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*))"
    rb"((?:;[a-z][a-z0-9.-]{0,31}=[!-:<-~]{1,255})*)"
    rb"(?: ([^\n\r\x10]*(?:\x10[JMP][^\n\r\x10]*)*))?"
)


class Malformed(ProtocolFault):
    """A line that the grammar does not allow."""


@dataclass(slots=True)
class ReplyLine:
    """A line with an id. Of ``err``, ``no`` and ``cut`` the body is the text behind the code."""

    id: int
    word: str
    attributes: Mapping[str, str]
    body: bytes
    code: str = ""

    @property
    def text(self) -> str:
        """The text behind the code, escaped and cut."""
        return grammar.printable(self.body)

    @property
    def retry(self) -> float | None:
        """The seconds of a well-formed ``retry``."""
        milliseconds = grammar.number(self.attributes.get("retry"))
        return None if milliseconds is None else milliseconds / 1000


@dataclass(slots=True)
class Notification:
    topic: str
    sequence: int
    payload: bytes


@dataclass(slots=True)
class Notice:
    name: str
    attributes: Mapping[str, str]
    arguments: list[bytes]


ServerLine: TypeAlias = ReplyLine | Notification | Notice


def parse(line: bytes) -> ServerLine:
    """A line of the server, without its LF. Raises `Malformed`."""
    match = _LINE.fullmatch(line)
    if match is None or match.end(4) > MAX_HEAD:
        raise Malformed("the server wrote a malformed line")
    attributes = _attributes(match[4])
    body = grammar.unstuff(match[5] or b"")
    if match[1] is not None:
        return _reply(match[1], match[2].decode(), attributes, body)
    name = match[3].decode()
    if len(name) > MAX_NAME:
        raise Malformed("the server wrote a name of more than 128 bytes")
    if name.startswith("/"):
        return Notice(name, attributes, body.split(b" "))
    sequence, payload = _word(body)
    seq = grammar.number(sequence)
    if seq is None:
        raise Malformed("the server wrote a notification without a number")
    return Notification(name, seq, payload)


def _reply(id: bytes, word: str, attributes: dict[str, str], body: bytes) -> ReplyLine:
    if int(id) > MAX_NUMBER:
        raise Malformed("the server wrote an id above 2^53-1")
    if word in ("ok", "more"):
        return ReplyLine(int(id), word, attributes, body)
    code, text = _word(body)
    if not grammar.is_code(code):
        raise Malformed(f"the server wrote {word} without a code")
    return ReplyLine(int(id), word, attributes, text, code)


def _attributes(text: bytes) -> dict[str, str]:
    if not text:
        return {}
    parts = text.decode("ascii")[1:].split(";")
    attributes = dict(part.split("=", 1) for part in parts)
    if len(attributes) < len(parts) or len(parts) > MAX_ATTRIBUTES:
        raise Malformed("the server repeated an attribute, or wrote too many of them")
    return attributes


def _word(body: bytes) -> tuple[str, bytes]:
    word, _, rest = body.partition(b" ")
    return word.decode("latin-1"), rest


def encode(id: int | None, method: str, attributes: Mapping[str, str], body: bytes) -> bytes:
    """A request, with its LF. Without an id it is one-way."""
    mark = "*" if id is None else str(id)
    head = f"{mark} {method}" + "".join(f";{key}={value}" for key, value in attributes.items())
    encoded = head.encode("ascii")
    return encoded + b" " + grammar.stuff(body) + b"\n" if body else encoded + b"\n"


class Splitter:
    """Cuts a stream of bytes into lines of at most ``max_line`` bytes, LF included."""

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self._held = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that end in these bytes, without their LF. Raises `Malformed` at one that is too long."""
        self._held += data
        begin = 0
        try:
            while (end := self._held.find(b"\n", max(begin, self._searched))) >= 0:
                if end - begin >= self.max_line:
                    raise too_long(self.max_line)
                line = bytes(self._held[begin:end])
                begin = end + 1
                yield line
            if len(self._held) - begin >= self.max_line:
                raise too_long(self.max_line)
        finally:
            del self._held[:begin]
            self._searched = len(self._held)


def too_long(max_line: int) -> Malformed:
    """The fault of a line over the client's limit."""
    return Malformed(f"the server wrote a line of more than {max_line} bytes")

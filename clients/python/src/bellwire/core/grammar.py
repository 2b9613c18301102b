"""The words of the protocol (section 2): what is a name, a code, a number; and byte stuffing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..values import MAX_NUMBER, Position

DEFAULT_MAX_LINE = 65_535
MAX_HEAD = 2_048
MAX_NAME = 128
MAX_ATTRIBUTES = 32
REPLY_WORDS = frozenset({"ok", "more", "err", "no", "cut"})

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*")
_CODE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_EPOCH = re.compile(r"[A-Za-z0-9]{1,32}")
_NUMBER = re.compile(r"[1-9][0-9]{0,15}")
_KEY = re.compile(r"[a-z][a-z0-9.-]{0,31}")
_VALUE = re.compile(r"[!-:<-~]{1,255}")
_TO_STUFF = re.compile(rb"[\n\r\x10]")
_STUFFED = re.compile(rb"\x10(.)")
_PAIRS = {b"\n": b"\x10J", b"\r": b"\x10M", b"\x10": b"\x10P"}
_BYTES = {b"J": b"\n", b"M": b"\r", b"P": b"\x10"}


def stuff(body: bytes) -> bytes:
    """A body as it travels."""
    return _TO_STUFF.sub(lambda found: _PAIRS[found[0]], body)


def unstuff(body: bytes) -> bytes:
    """The body that travelled as these bytes, which the grammar of a line allows."""
    return _STUFFED.sub(lambda found: _BYTES[found[1]], body) if b"\x10" in body else body


def is_name(text: str) -> bool:
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_code(text: str) -> bool:
    return _CODE.fullmatch(text) is not None


def is_epoch(text: str) -> bool:
    return _EPOCH.fullmatch(text) is not None


def number(text: str | None, least: int = 1) -> int | None:
    """A number of the protocol, or ``None``."""
    if text == "0" and least == 0:
        return 0
    if text is None or not _NUMBER.fullmatch(text) or not least <= int(text) <= MAX_NUMBER:
        return None
    return int(text)


def position(text: str) -> Position | None:
    """``EPOCH:NEXT``, or ``None``."""
    try:
        return Position.parse(text)
    except ValueError:
        return None


def check_method(method: str) -> str:
    """An application method. Raises ``ValueError`` with the reason if it is none."""
    if not is_name(method) or method in REPLY_WORDS:
        raise ValueError(f"{method[:64]!r} is not the name of an application method")
    return method


def check_topic(topic: str) -> str:
    """A topic. Raises ``ValueError`` with the reason if it is none."""
    if not is_name(topic):
        raise ValueError(f"{topic[:64]!r} is not the name of a topic")
    return topic


def check_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes of the application: their keys have a dot. Raises ``ValueError`` with the reason."""
    for key, value in attributes.items():
        if "." not in key or not _KEY.fullmatch(key):
            raise ValueError(f"{key[:64]!r} is not the key of an attribute of the application: it needs a dot")
        check_value(key, value)
    return dict(attributes)


def check_value(key: str, value: str) -> str:
    """The value of an attribute. Raises ``ValueError`` with the reason if it is none."""
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the value of {key} has to be 1 to 255 printable ASCII characters, without a space or ;")
    return value


def as_bytes(payload: str | bytes | bytearray | memoryview) -> bytes:
    """A payload; text is written as UTF-8. Raises ``TypeError`` for anything else."""
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"a payload has to be bytes or str, not {type(payload).__name__}")


def printable(text: bytes) -> str:
    """A text of a peer for people: escaped, and cut to 256 characters."""
    shown = text.decode(errors="backslashreplace")
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)
    return shown if len(shown) <= 256 else shown[:255] + "…"

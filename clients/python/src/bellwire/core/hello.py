"""The server's ``/hello`` (section 12.2): the first line, and the limits of the connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ProtocolFault
from . import grammar
from .grammar import DEFAULT_MAX_LINE
from .lines import Malformed, Notice, ServerLine

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Keys:
    """The server's table of keys (section 23)."""

    store: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Hello:
    """What a server announces. Times are in seconds."""

    session: str | None
    max_line: int
    in_flight: int
    lease: int
    idle: int | None
    auth: tuple[str, ...]
    keys: Keys | None


def read(line: ServerLine) -> Hello:
    """The first line of a server. Raises `ProtocolFault` if it is no ``/hello`` of version 1."""
    if not isinstance(line, Notice) or line.name != "/hello":
        raise ProtocolFault("the first line is not a /hello: this is not a bellwire server")
    attributes = line.attributes
    if attributes.get("version") != "1":
        raise ProtocolFault("the server does not speak version 1 of the protocol")
    session = attributes.get("session")
    if session is not None and not _UUID.fullmatch(session):
        raise _fault("session")
    idle = _number(attributes, "idle", 0)
    return Hello(
        session,
        _number(attributes, "max-line", DEFAULT_MAX_LINE, 1_024),
        _number(attributes, "in-flight", 1_024),
        _number(attributes, "lease", 60),
        idle or None,
        _schemes(attributes.get("auth")),
        _keys(attributes.get("keys")),
    )


def _fault(key: str) -> Malformed:
    return Malformed(f"the {key} of the server's /hello is malformed")


def _number(attributes: Mapping[str, str], key: str, default: int, least: int = 1) -> int:
    if key not in attributes:
        return default
    found = grammar.number(attributes[key], least)
    if found is None:
        raise _fault(key)
    return found


def _schemes(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    schemes = tuple(text.split(","))
    if not all(map(grammar.is_code, schemes)):
        raise _fault("auth")
    return schemes


def _keys(text: str | None) -> Keys | None:
    if text is None:
        return None
    table = grammar.position(text)  # of the same form
    if table is None:
        raise _fault("keys")
    return Keys(table.epoch, table.next)

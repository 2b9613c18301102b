"""Addresses of servers: ``HOST:PORT``, ``[IPv6]:PORT`` and ``unix:PATH``."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass

#: How long the system of a server may leave bytes or probes unanswered, in seconds.
_TIMEOUT = 20


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str


def parse(text: str) -> TcpAddress | UnixAddress:
    """An address. Raises ``ValueError`` with the forms if it is none."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return UnixAddress(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is not an address: HOST:PORT, [IPv6]:PORT or unix:PATH is expected")
    return TcpAddress(host, int(port))


def tune(connected: socket.socket) -> None:
    """Has the system notice within 20 s that a server's system is gone, where it offers that."""
    with suppress(OSError):  # some systems say so if the connection is lost already
        _tune(connected)


def _tune(connected: socket.socket) -> None:
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": _TIMEOUT * 1000}
    for name, value in options.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

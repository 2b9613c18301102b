"""Connects to the first address of a host that answers (RFC 8305).

``loop.create_connection(happy_eyeballs_delay=…)`` does the same, but uvloop does not have it, and it fails
with eager tasks in the first releases of Python 3.12 and 3.13.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
from collections import deque
from typing import Any

#: How long an attempt may take before the next address is tried beside it.
_STAGGER = 0.25

_Info = tuple[int, Any]


async def connect(host: str, port: int) -> socket.socket:
    """A connected socket. Raises the ``OSError`` of the last address if none answers."""
    left = deque(await _resolve(host, port))
    attempts = list[asyncio.Task[socket.socket]]()
    error = OSError(f"{host} has no address")
    try:
        while left or attempts:
            if left:
                attempts.append(asyncio.create_task(_attempt(*left.popleft())))
            await asyncio.wait(
                attempts, timeout=_STAGGER if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [one for one in attempts if one.done()]:
                attempts.remove(task)
                try:
                    return task.result()
                except OSError as failed:
                    error = failed
        raise error
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(_drop)


async def _resolve(host: str, port: int) -> list[_Info]:
    """The addresses of a host, in the order in which they are tried: of each family in turn."""
    try:
        # A numeric address without a zone needs no resolver.
        version = ipaddress.ip_address(host).version if "%" not in host else 0
    except ValueError:
        version = 0
    if version:
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, list[_Info]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, address))
    return [one for row in itertools.zip_longest(*families.values()) for one in row if one]


async def _attempt(family: int, address: Any) -> socket.socket:
    attempt = socket.socket(family, socket.SOCK_STREAM)
    try:
        attempt.setblocking(False)
        await asyncio.get_running_loop().sock_connect(attempt, address)
    except BaseException:
        attempt.close()
        raise
    return attempt


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """Closes the socket of an attempt that connected after another one."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()

"""Credentials for ``/auth`` (section 19), by scheme. They are never part of a text or an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from .core import grammar

#: A secret, or a function that returns one (or an awaitable of one) before each connection.
Secret: TypeAlias = str | bytes
Credentials: TypeAlias = Secret | Callable[[], Secret | Awaitable[Secret]]


def collect(token: Credentials | None, auth: Mapping[str, Credentials] | None) -> dict[str, Credentials]:
    """The credentials by scheme, in the order of preference. Raises ``ValueError`` at a bad scheme."""
    found = dict(auth or {})
    if token is not None:
        if "token" in found:
            raise ValueError("give the token either as token= or in auth=, not in both")
        found["token"] = token
    for scheme, secret in found.items():
        if not grammar.is_code(scheme):
            raise ValueError(f"{scheme!r} is not the name of an authentication scheme")
        if not callable(secret) and not encode(secret):
            raise ValueError(f"the credentials for the scheme {scheme} are empty")
    return found


def are_fixed(credentials: Mapping[str, Credentials]) -> bool:
    """Whether another attempt would send the same."""
    return not any(callable(secret) for secret in credentials.values())


def encode(secret: Secret) -> bytes:
    """The bytes of a secret. Raises ``TypeError`` or ``ValueError``, without the secret, if it is not text or bytes."""
    if isinstance(secret, str):
        try:
            return secret.encode()
        except UnicodeEncodeError:
            raise ValueError("credentials have to be text that UTF-8 can encode") from None
    if not isinstance(secret, (bytes, bytearray, memoryview)):
        raise TypeError(f"credentials have to be text or bytes, not {type(secret).__name__}")
    return bytes(secret)

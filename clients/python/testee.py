"""What the testees of the asyncio and of the Twisted client share: commands and events.

conformance/TESTEE.md describes both.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import bellwire
from bellwire import Config, End, Gap, Message, Reset

ABILITIES = (
    "testee L3 ack-by-hand addresses after attributes auth cancel counts deadline from in-flight keys "
    "max-line methods one-way pause probe publish redeliver repeat resend resubscribe strict streams window"
)


def report(event: bytes | str) -> None:
    """Writes an event, escaped."""
    data = event.encode() if isinstance(event, str) else event
    shown = (chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in data)
    sys.stdout.write("".join(shown) + "\n")
    sys.stdout.flush()


def with_payload(head: str, payload: bytes) -> bytes:
    return head.encode() + (b" " + payload if payload else b"")


def report_failure(tag: str, error: bellwire.CallError) -> None:
    """Reports an outcome that is no reply."""
    match error:
        case bellwire.Failed():
            report(f"{tag} error {error.code}")
        case bellwire.Refused():
            report(f"{tag} refused {error.code}")
        case bellwire.NotSent():
            report(f"{tag} not-sent")
        case _:
            report(f"{tag} unknown")


def report_delivery(tag: str, delivery: bellwire.Delivery) -> None:
    """Reports what came on a subscription."""
    match delivery:
        case Message():
            word = "again" if delivery.redelivered else "message"
            report(with_payload(f"{tag} {word} {delivery.sequence}", delivery.payload))
        case Gap():
            report(f"{tag} gap {delivery.first} {delivery.last} {delivery.reason}")
        case Reset():
            report(f"{tag} reset {delivery.position}")
        case End():
            at = f" {delivery.position}" if delivery.position else ""
            report(f"{tag} ended {delivery.reason}{at}")


class Command:
    """A command line taken apart."""

    def __init__(self, line: bytes) -> None:
        line = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), line)
        head, _, self.rest = line.partition(b" ")
        self.word, *options = head.decode().split(";")
        self.options = dict(option.split("=", 1) for option in options)

    def next(self) -> str:
        word, _, self.rest = self.rest.partition(b" ")
        return word.decode()

    def number(self, key: str) -> int | None:
        return int(self.options[key]) if key in self.options else None

    def seconds(self, key: str) -> float | None:
        return int(self.options[key]) / 1000 if key in self.options else None

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the application."""
        return {key: value for key, value in self.options.items() if "." in key}


def config(command: Command) -> Config:
    """The limits that a `connect` asks for."""
    limits: dict[str, Any] = {}
    if "strict" in command.options:
        limits["strict"] = True
    for option, name in (("max-line", "max_line"), ("in-flight", "in_flight")):
        if option in command.options:
            limits[name] = command.number(option)
    if "probe" in command.options:
        limits["probe"] = command.seconds("probe")
    return Config(**limits)

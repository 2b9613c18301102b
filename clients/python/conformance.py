"""The testee of the asyncio client for the conformance kit (conformance/TESTEE.md).

    bellwire-conformance run client -- python3 clients/python/conformance.py
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

import bellwire
from bellwire import Client, Config, End, Gap, Message, Position, Reset

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
    match error:
        case bellwire.Failed():
            report(f"{tag} error {error.code}")
        case bellwire.Refused():
            report(f"{tag} refused {error.code}")
        case bellwire.NotSent():
            report(f"{tag} not-sent")
        case _:
            report(f"{tag} unknown")


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


class Listener:
    """A subscription of the testee, and the task that reads it."""

    def __init__(self, client: Client, tag: str, command: Command) -> None:
        self._client = client
        self._tag = tag
        self.subscription: bellwire.Subscription | None = None
        self._task = asyncio.create_task(self._begin(command.next(), command))

    async def _begin(self, topic: str, command: Command) -> None:
        try:
            self.subscription = await self._client.subscribe(
                topic,
                start=command.options.get("from"),
                window=command.number("window"),
                slow=cast("Literal['gap', 'latest', 'close'] | None", command.options.get("slow")),
                ack="hand" if "ack" in command.options else "auto",
                redeliver="redeliver" in command.options,
            )
        except bellwire.CallError as error:
            return report_failure(self._tag, error)
        report(f"{self._tag} subscribed {self.subscription.position}")
        await self._read()

    async def _read(self) -> None:
        assert self.subscription is not None
        async for delivery in self.subscription:
            self._tell(delivery)

    def _tell(self, delivery: bellwire.Delivery) -> None:
        match delivery:
            case Message():
                word = "again" if delivery.redelivered else "message"
                report(with_payload(f"{self._tag} {word} {delivery.sequence}", delivery.payload))
            case Gap():
                report(f"{self._tag} gap {delivery.first} {delivery.last} {delivery.reason}")
            case Reset():
                report(f"{self._tag} reset {delivery.position}")
            case End():
                at = f" {delivery.position}" if delivery.position else ""
                report(f"{self._tag} ended {delivery.reason}{at}")

    def pause(self) -> None:
        self._task.cancel()  # nothing is lost: see Subscription.__anext__

    def resume(self) -> None:
        self._task = asyncio.create_task(self._read())

    def leave(self) -> None:
        if self.subscription is not None:
            self.subscription.unsubscribe()
        self._task.cancel()
        report(f"{self._tag} left")


class Testee:
    """Obeys commands."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._streams: dict[str, tuple[bellwire.Stream, asyncio.Queue[None]]] = {}
        self._listeners: dict[str, Listener] = {}
        self._others: set[asyncio.Task[None]] = set()

    @property
    def client(self) -> Client:
        assert self._client is not None, "there was no connect"
        return self._client

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        return task

    async def obey(self, line: bytes) -> None:
        command = Command(line)
        obey = getattr(self, "_" + command.word.replace("-", "_"))
        found: Any = obey(command)
        if found is not None:
            await found

    # The connection.

    async def _connect(self, command: Command) -> None:
        addresses = command.rest.decode().split(" ")
        options: dict[str, Any] = {"config": _config(command)}
        if "auth" in command.options:
            scheme, _, secret = command.options["auth"].partition(":")
            options["auth"] = {scheme: secret}
        if "reconnect" in command.options:
            self._client = Client.start(*addresses, **options)
            self._spawn(self._tell_of_connection())
            return
        try:
            self._client = await bellwire.connect(*addresses, reconnect=False, **options)
        except bellwire.ConnectionFailure:
            return report("failed")
        report("connected")
        self._spawn(self._tell_of_end(was_connected=True))

    async def _tell_of_connection(self) -> None:
        try:
            await self.client.connected()
        except bellwire.ConnectionFailure:
            return report("failed")
        report("connected")
        await self._tell_of_end(was_connected=True)

    async def _tell_of_end(self, was_connected: bool) -> None:
        if not isinstance(await self.client.wait_ended(), bellwire.ClientClosed):
            report("disconnected")

    def _close(self, command: Command) -> None:
        async def close() -> None:
            await self.client.close()
            report("closed")

        self._spawn(close())

    def _counts(self, command: Command) -> None:
        stats = self.client.stats
        report(f"counts {stats.doubled_replies + stats.unasked_replies} {stats.violations}")

    # Requests.

    def _request(self, tag: str, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except bellwire.CallError as error:
                report_failure(tag, error)

        self._calls[tag] = self._spawn(run())

    def _call(self, command: Command) -> None:
        tag, method = command.next(), command.next()
        attributes = {key: value for key, value in command.options.items() if "." in key}

        async def call() -> None:
            reply = await self.client.call(
                method,
                command.rest,
                deadline=command.seconds("deadline"),
                key=command.options.get("key"),
                attributes=attributes,
            )
            after = f";after={reply.after.topic}:{reply.after.position}" if reply.after else ""
            report(with_payload(f"{tag} reply{after}", reply.payload))

        self._request(tag, call)

    def _one_way(self, command: Command) -> None:
        attributes = {key: value for key, value in command.options.items() if "." in key}

        async def send() -> None:
            try:
                await self.client.one_way(command.next(), command.rest, attributes=attributes)
            except bellwire.NotSent:
                pass  # it is dropped where it may not be sent

        self._spawn(send())

    def _cancel(self, command: Command) -> None:
        tag = command.next()
        if tag in self._streams:
            self._streams[tag][0].close()
        self._calls.pop(tag).cancel()

    def _publish(self, command: Command) -> None:
        tag, topic = command.next(), command.next()

        async def publish() -> None:
            done = await self.client.publish(topic, command.rest, key=command.options.get("key"))
            report(f"{tag} published {done.epoch}:{done.sequence}")

        self._request(tag, publish)

    def _methods(self, command: Command) -> None:
        tag = command.next()

        async def methods() -> None:
            for name, doc in await self.client.methods():
                report(with_payload(f"{tag} item {name}", doc.encode()))
            report(f"{tag} end")

        self._request(tag, methods)

    def _stream(self, command: Command) -> None:
        tag, method = command.next(), command.next()
        stream = self.client.stream(method, command.rest, window=command.number("window"))
        takes = asyncio.Queue[None]()
        self._streams[tag] = stream, takes

        async def read() -> None:
            while True:
                await takes.get()
                try:
                    report(with_payload(f"{tag} item", await anext(stream)))
                except StopAsyncIteration:
                    return report(f"{tag} end")

        self._request(tag, read)

    def _take(self, command: Command) -> None:
        self._streams[command.next()][1].put_nowait(None)

    # Subscriptions.

    def _subscribe(self, command: Command) -> None:
        tag = command.next()
        self._listeners[tag] = Listener(self.client, tag, command)

    def _unsubscribe(self, command: Command) -> None:
        self._listeners[command.next()].leave()

    def _pause(self, command: Command) -> None:
        self._listeners[command.next()].pause()

    def _resume(self, command: Command) -> None:
        self._listeners[command.next()].resume()

    def _ack(self, command: Command) -> None:
        subscription = self._listeners[command.next()].subscription
        assert subscription is not None
        subscription.ack(Position.parse(command.next()))

    def _await(self, command: Command) -> None:
        tag, listener = command.next(), self._listeners[command.next()]
        subscription = listener.subscription
        assert subscription is not None

        async def wait() -> None:
            await subscription.seen(Position.parse(command.next()))
            report(f"{tag} satisfied")

        self._spawn(wait())


def _config(command: Command) -> Config:
    limits: dict[str, Any] = {}
    if "strict" in command.options:
        limits["strict"] = True
    for option, name in (("max-line", "max_line"), ("in-flight", "in_flight")):
        if option in command.options:
            limits[name] = command.number(option)
    if "probe" in command.options:
        limits["probe"] = command.seconds("probe")
    return Config(**limits)


async def main() -> None:
    testee = Testee()
    lines = asyncio.Queue[bytes]()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(lines.put_nowait, line.rstrip(b"\n"))
        os._exit(0)  # at once, whatever the client is doing

    report(ABILITIES)
    threading.Thread(target=read, daemon=True).start()
    while True:
        await testee.obey(await lines.get())


if __name__ == "__main__":
    asyncio.run(main())

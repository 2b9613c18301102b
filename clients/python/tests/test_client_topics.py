"""Subscriptions of the asyncio client, against real servers."""

from __future__ import annotations

import asyncio
import gc

import pytest

import bellwire
from bellwire import Client, Config, End, Gap, Message, Refused, Reset, Subscription
from conftest import PATIENCE, Control
from relay import relay
from servers import offers_server

OFFER = '{"title":"Loft","rent":700,"area":30,"city":"Paris","description":"x"}'


async def next_of(subscription: Subscription) -> bellwire.Delivery:
    async with asyncio.timeout(PATIENCE):
        return await anext(subscription)


async def payloads(subscription: Subscription, count: int) -> list[bytes]:
    found = [await next_of(subscription) for _ in range(count)]
    return [one.payload for one in found if isinstance(one, Message)]


async def test_a_message_arrives_and_its_cause_is_seen(client: Client) -> None:
    async with await client.subscribe("offers") as subscription:
        reply = await client.call("offers.add", OFFER)
        message = await next_of(subscription)
        assert isinstance(message, Message) and message.json() == reply.json()
        assert str(subscription.position) == f"{message.epoch}:{message.sequence + 1}"


async def test_an_after_is_awaited(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        async with await client.subscribe("offers") as subscription:
            reply = await client.call("add", "x")
            assert reply.after is not None
            seen = asyncio.create_task(subscription.seen(reply.after))
            assert await payloads(subscription, 1) == [b"x"]
            await seen


async def test_publishing_says_where_the_message_is(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        async with await client.subscribe("news") as subscription:
            done = await client.publish("news", " a\nb ", key="k")
            assert await client.publish("news", " a\nb ", key="k") == done
            message = await next_of(subscription)
            assert message == Message(done.sequence, b" a\nb ", done.epoch)


async def test_a_late_subscriber_begins_with_the_last_messages(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        for text in "abc":
            await client.publish("news", text)
        async with await client.subscribe("news", last=2) as subscription:
            assert await payloads(subscription, 2) == [b"b", b"c"]
        async with await client.subscribe("news", start=f"{(await client.publish('news', 'd')).epoch}:1") as again:
            assert await payloads(again, 4) == [b"a", b"b", b"c", b"d"]


async def test_nothing_is_lost_over_lost_connections(control: Control) -> None:
    address = await control.open()
    async with relay(address) as cable, bellwire.connect(cable.address) as client:
        async with await client.subscribe("news") as subscription:
            for n in range(60):
                await control.do("publish", address, "news", str(n))
                if n % 20 == 10:
                    cable.cut()
            assert await payloads(subscription, 60) == [str(n).encode() for n in range(60)]


async def test_a_server_that_was_killed_comes_back_with_a_new_log() -> None:
    with offers_server() as first:
        async with bellwire.connect(first.address) as client:
            async with await client.subscribe("offers") as subscription:
                await client.call("offers.add", OFFER)
                assert isinstance(await next_of(subscription), Message)
                first.kill()
                with offers_server(listen=first.address):
                    reset = await next_of(subscription)
                    assert isinstance(reset, Reset) and reset.position.next == 1
                    await client.call("offers.add", OFFER)
                    assert isinstance(await next_of(subscription), Message)


async def test_a_server_that_stops_in_order_loses_nothing(control: Control) -> None:
    first = await control.open()
    second = await control.open()
    async with bellwire.connect(first, second) as client:
        async with await client.subscribe("news") as subscription:
            waiting = asyncio.create_task(client.call("wait", "x"))
            async with asyncio.timeout(PATIENCE):
                while await control.do("waits", first) != "x":
                    await asyncio.sleep(0.01)
            events = client.events()
            stopping = asyncio.create_task(control.do("stop", first))
            async for event in events:
                if isinstance(event, bellwire.Connected):
                    break
            await control.do("publish", first, "news", "last")
            assert await payloads(subscription, 1) == [b"last"]
            assert (await client.call("echo", "elsewhere")).text() == "elsewhere"
            await control.do("finish", first, "x")
            assert (await waiting).text() == "done x"
            await stopping
            assert isinstance(await next_of(subscription), Reset)


async def test_what_is_not_retained_is_a_gap(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        epoch = (await client.publish("news", "a")).epoch
        for text in "bcd":
            await client.publish("news", text)
        await control.do("trim", address, "news", "3")
        async with await client.subscribe("news", start=f"{epoch}:1") as subscription:
            assert await next_of(subscription) == Gap(1, 2, "retention")
            assert await payloads(subscription, 2) == [b"c", b"d"]


async def test_a_topic_that_is_closed_ends(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        subscription = await client.subscribe("news")
        await control.do("publish", address, "news", "a")
        await control.do("end", address, "news")
        found = [delivery async for delivery in subscription]
        assert isinstance(found[0], Message)
        assert isinstance(found[1], End) and found[1].reason == "closed"


async def test_a_reader_that_is_too_slow_is_told_what_it_lost(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address, config=Config(inbox_items=10)) as client:
        async with await client.subscribe("news") as subscription:
            for n in range(50):
                last = await client.publish("news", str(n))
            await client.call("echo", "x")
            found: list[bellwire.Delivery] = []
            while not found or not (isinstance(found[-1], Message) and found[-1].sequence == last.sequence):
                found.append(await next_of(subscription))
            assert isinstance(found[0], Gap) and found[0].reason == "lagged"
            numbers = [one.sequence for one in found if isinstance(one, Message)]
            assert numbers == list(range(found[0].last + 1, last.sequence + 1))


async def test_a_window_holds_the_server_until_messages_are_taken(control: Control) -> None:
    address = await control.open()
    async with relay(address) as cable, bellwire.connect(cable.address) as client:
        async with await client.subscribe("news", window=2, ack="hand") as subscription:
            for text in "abc":
                await control.do("publish", address, "news", text)
            first, second = await next_of(subscription), await next_of(subscription)
            assert isinstance(first, Message) and isinstance(second, Message)
            await client.call("echo", "x")
            assert b"/ack" not in cable.written
            subscription.ack(second)
            subscription.ack(first)
            assert await payloads(subscription, 1) == [b"c"]
            assert subscription.unacknowledged is not None
            assert subscription.unacknowledged.next == second.sequence + 1


async def test_what_was_not_acknowledged_comes_again(control: Control) -> None:
    address = await control.open()
    async with relay(address) as cable, bellwire.connect(cable.address) as client:
        async with await client.subscribe("news", window=4, redeliver=True) as subscription:
            await control.do("publish", address, "news", "a")
            await control.do("publish", address, "news", "b")
            first, second = await next_of(subscription), await next_of(subscription)
            assert isinstance(first, Message) and isinstance(second, Message)
            subscription.ack(first)
            cable.cut()
            again = await next_of(subscription)
            assert again == Message(second.sequence, b"b", second.epoch, redelivered=True)


async def test_acks_by_themselves_cannot_be_given_by_hand(client: Client) -> None:
    async with await client.subscribe("random") as subscription:
        with pytest.raises(ValueError, match="acknowledges by itself"):
            subscription.ack(subscription.position)


async def test_a_topic_is_subscribed_to_once(client: Client) -> None:
    async with await client.subscribe("random"):
        with pytest.raises(ValueError, match="already listens"):
            await client.subscribe("random")
    async with await client.subscribe("random"):
        pass


async def test_a_refused_subscription_raises(control: Control) -> None:
    async with bellwire.connect(await control.open("auth"), token="secret") as client:
        with pytest.raises(Refused, match="forbidden"):
            await client.subscribe("closed")


async def test_the_lease_is_renewed() -> None:
    with offers_server("--lease", "2") as server:
        async with relay(server.address) as cable, bellwire.connect(cable.address) as client:
            async with await client.subscribe("offers") as subscription:
                async with asyncio.timeout(PATIENCE):
                    while cable.written.count(b"/renew") < 2:
                        await asyncio.sleep(0.05)
                await client.call("offers.add", OFFER)
                assert isinstance(await next_of(subscription), Message)


async def test_a_cancelled_reader_loses_nothing(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        async with await client.subscribe("news") as subscription:
            found = list[bellwire.Delivery]()
            for n in range(20):
                reader = asyncio.ensure_future(anext(subscription))
                await control.do("publish", address, "news", str(n))
                reader.cancel()
                found += [one for one in await asyncio.gather(reader, return_exceptions=True) if isinstance(one, Message)]
            while len(found) < 20:
                found.append(await next_of(subscription))
            assert [one.payload for one in found if isinstance(one, Message)] == [b"%d" % n for n in range(20)]


async def test_a_subscription_that_is_forgotten_is_left_with_a_warning(control: Control) -> None:
    async with relay(await control.open()) as cable, bellwire.connect(cable.address) as client:
        subscription = await client.subscribe("news")
        with pytest.warns(ResourceWarning, match="the subscription to news was not closed"):
            del subscription
            gc.collect()
        async with asyncio.timeout(PATIENCE):
            while b"/unsubscribe news" not in cable.written:
                await asyncio.sleep(0.01)


async def test_closing_the_client_ends_its_subscriptions(control: Control) -> None:
    client = await bellwire.connect(await control.open())
    subscription = await client.subscribe("news")
    await client.close()
    assert [one.reason async for one in subscription if isinstance(one, End)] == ["client-closed"]

"""The Twisted client, against real servers."""

from __future__ import annotations

from typing import Any

import bellwire
import trustme
from bellwire import Config, End, Failed, Gap, Message, NotSent, Position, Refused, Reset, Unknown
from bellwire_twisted import Client
from bellwire_twisted._protocol import BellwireProtocol
from servers import offers_server
from twisted.internet.defer import CancelledError, Deferred, gatherResults, race
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate, optionsForClientTLS
from twisted.internet.testing import StringTransport

from support import ClientCase, Inbox, kit, offers

OFFER = '{"title":"Loft","rent":700,"area":30,"city":"Paris","description":"x"}'


class Calls(ClientCase):
    async def test_a_reply(self) -> None:
        client = await self.start(offers().address)
        reply = await client.call("offers.get", "1")
        self.assertEqual(reply.json()["id"], 1)
        self.assertEqual((await client.callJSON("offers.get", 2))["id"], 2)

    async def test_outcomes_are_failures(self) -> None:
        client = await self.start(offers().address)
        failure = await self.fails(client.call("offers.get", "9999"), Failed)
        self.assertEqual(failure.code, "not-found")
        await self.fails(client.call("nosuch"), Refused)
        await self.fails(client.call("random", "x" * 70_000), NotSent)

    async def test_a_thousand_calls_side_by_side(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        calls = [client.call("echo", str(n)) for n in range(1_000)]
        replies = await gatherResults(calls)
        self.assertEqual([reply.payload for reply in replies], [b"%d" % n for n in range(1_000)])

    async def test_calls_that_fill_the_transport_are_all_answered(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"), config=Config(outbound_bytes=10_000))
        replies = await gatherResults([client.call("echo", b"x" * 60_000) for _ in range(200)])
        self.assertEqual({len(reply.payload) for reply in replies}, {60_000})

    async def test_cancelling_cancels_on_the_server(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address)
        call = client.call("wait", "x")
        await self.until(lambda: do("waits", address).addCallback("x".__eq__))
        call.cancel()
        await self.fails(call, CancelledError)
        await self.until(lambda: do("waits", address).addCallback("".__eq__))

    async def test_a_deadline_is_unknown(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        failure = await self.fails(client.call("wait", "x", deadline=0.2), Unknown)
        self.assertEqual(failure.code, "deadline")

    async def test_a_call_with_a_key_runs_once_over_a_lost_connection(self) -> None:
        do = await self.control()
        address = await do("open")
        cable = self.cable(address)
        client = await self.start(cable.address)
        call = client.call("wait", "x", key="order-17")
        await self.until(lambda: do("waits", address).addCallback("x".__eq__))
        cable.cut()
        await do("finish", address, "x")
        self.assertEqual((await call).text(), "done x")
        self.assertEqual(cable.written.count(b"wait;key=order-17 x"), 2)

    async def test_a_callback_may_call(self) -> None:
        client = await self.start(offers().address)
        first = client.call("random", "1")
        first.addCallback(lambda reply: client.call("random", "1"))
        self.assertEqual((await first).payload, b"0")

    async def test_one_way_methods_and_publishing(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address)
        await client.oneWay("note", "hello")
        await self.until(lambda: do("notes", address).addCallback("hello".__eq__))
        self.assertIn("echo", [name for name, _ in await client.methods()])
        self.assertEqual((await client.publish("news", "a")).sequence, 1)

    async def test_bad_arguments_raise(self) -> None:
        client = await self.start(offers().address)
        for bad in ("/quit", "a b", "ok", "é"):
            self.assertRaises(ValueError, client.call, bad)
        self.assertRaises(TypeError, client.call, "random", 6)
        self.assertRaises(ValueError, client.subscribe, "t", print, ack="hand")
        self.assertRaises(ValueError, client.subscribe, "t", print, start=Position("e\n9 random", 1))
        self.assertRaises(ValueError, client.callJSON, "random", float("nan"))
        self.assertEqual((await client.call("random", "1", deadline=1e306)).payload, b"0")
        self.assertRaises(ValueError, Client, "nowhere")
        self.assertRaises(ValueError, Client)


class Streams(ClientCase):
    async def test_items_come_in_order(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        items: list[bytes] = []
        await client.stream("count", items.append, "500", window=8)
        self.assertEqual(items, [b"%d" % n for n in range(1, 501)])

    async def test_the_next_item_waits_for_the_deferred(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address)
        handled: list[Deferred[None]] = []

        def on_item(item: bytes) -> Deferred[None]:
            handled.append(Deferred())
            return handled[-1]

        finished = client.stream("count", on_item, "5", window=2)
        await self.until(lambda: len(handled) == 1)
        await client.call("echo")
        self.assertEqual(len(handled), 1)
        for n in range(5):
            await self.until(lambda: len(handled) == n + 1)
            handled[n].callback(None)
        await finished

    async def test_an_error_comes_behind_the_items(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        items: list[bytes] = []
        await self.fails(client.stream("count.fail", items.append, "3"), Failed)
        self.assertEqual(items, [b"1", b"2", b"3"])

    async def test_a_failure_of_the_callback_cancels(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address)

        def broken(item: bytes) -> None:
            raise KeyError("x")

        finished = client.stream("steps", broken, "s")
        await do("finish", address, "s.1")
        await self.fails(finished, KeyError)
        await self.until(lambda: do("waits", address).addCallback("".__eq__))

    async def test_cancelling_cancels_on_the_server(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address)
        finished = client.stream("steps", lambda item: None, "s")
        await self.until(lambda: do("waits", address).addCallback("s.1".__eq__))
        finished.cancel()
        await self.fails(finished, CancelledError)
        await self.until(lambda: do("waits", address).addCallback("".__eq__))


class Topics(ClientCase):
    async def test_a_message_arrives_and_its_cause_is_seen(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        inbox = Inbox()
        subscription = await client.subscribe("offers", inbox)
        reply = await client.call("add", "x")
        assert reply.after is not None
        await subscription.seen(reply.after)
        self.assertEqual([one.payload for one in inbox.all], [b"x"])
        self.assertEqual(subscription.position, reply.after.position)

    async def test_the_first_of_several_positions_is_awaited(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        subscription = await client.subscribe("offers", Inbox())
        epoch = subscription.position.epoch
        either = race([subscription.seen(Position(epoch, 2)), subscription.seen(Position(epoch, 2))])
        other = subscription.seen(Position(epoch, 2))
        await client.call("add", "x")
        self.assertEqual(await either, (0, None))  # it cancels the second one
        await other

    async def test_nothing_is_lost_over_lost_connections(self) -> None:
        do = await self.control()
        address = await do("open")
        cable = self.cable(address)
        client = await self.start(cable.address)
        inbox = Inbox()
        await client.subscribe("news", inbox)
        for n in range(60):
            await do("publish", address, "news", str(n))
            if n % 20 == 10:
                cable.cut()
        found = [(await inbox.next()).payload for _ in range(60)]
        self.assertEqual(found, [b"%d" % n for n in range(60)])

    async def test_a_server_that_was_killed_comes_back_with_a_new_log(self) -> None:
        with offers_server() as first:
            client = await self.start(first.address)
            inbox = Inbox()
            await client.subscribe("offers", inbox)
            await client.call("offers.add", OFFER)
            self.assertIsInstance(await inbox.next(), Message)
            first.kill()
            with offers_server(listen=first.address):
                self.assertIsInstance(await inbox.next(), Reset)
                await client.call("offers.add", OFFER)
                self.assertIsInstance(await inbox.next(), Message)
                client.abort()

    async def test_a_server_that_stops_in_order_loses_nothing(self) -> None:
        do = await self.control()
        first, second = await do("open"), await do("open")
        client = await self.start(first, second)
        inbox, events = Inbox(), list[Any]()
        client.onEvent(events.append)
        await client.subscribe("news", inbox)
        waiting = client.call("wait", "x")
        await self.until(lambda: do("waits", first).addCallback("x".__eq__))
        stopping = do("stop", first)
        await self.until(lambda: any(isinstance(event, bellwire.Connected) for event in events))
        await do("publish", first, "news", "last")
        self.assertEqual((await inbox.next()).payload, b"last")
        self.assertEqual((await client.call("echo", "elsewhere")).text(), "elsewhere")
        await do("finish", first, "x")
        self.assertEqual((await waiting).text(), "done x")
        await stopping
        self.assertIsInstance(await inbox.next(), Reset)

    async def test_the_next_delivery_waits_for_the_deferred(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address, config=Config(inbox_items=5))
        handled: list[Deferred[None]] = []
        found: list[Any] = []

        def on_delivery(delivery: bellwire.Delivery) -> Deferred[None]:
            found.append(delivery)
            handled.append(Deferred())
            return handled[-1]

        await client.subscribe("news", on_delivery)
        for n in range(20):
            await client.publish("news", str(n))
        await client.call("echo")
        self.assertEqual([one.sequence for one in found], [1])
        for n in range(7):
            handled[n].callback(None)
            if n < 6:
                await self.until(lambda: len(found) == n + 2)
        self.assertEqual(found[1], Gap(2, 15, "lagged"))
        self.assertEqual([one.sequence for one in found[2:]], [16, 17, 18, 19, 20])

    async def test_what_was_not_acknowledged_comes_again(self) -> None:
        do = await self.control()
        address = await do("open")
        cable = self.cable(address)
        client = await self.start(cable.address)
        inbox = Inbox()
        subscription = await client.subscribe("news", inbox, window=4, redeliver=True)
        await do("publish", address, "news", "a")
        await do("publish", address, "news", "b")
        first, second = await inbox.next(), await inbox.next()
        subscription.ack(first)
        cable.cut()
        self.assertEqual(await inbox.next(), Message(2, b"b", second.epoch, redelivered=True))

    async def test_unsubscribing_and_ends(self) -> None:
        do = await self.control()
        address = await do("open")
        client = await self.start(address)
        inbox = Inbox()
        subscription = await client.subscribe("news", inbox)
        self.assertRaises(ValueError, client.subscribe, "news", inbox)
        subscription.unsubscribe()
        self.assertIsNone(await subscription.finished)
        again = await client.subscribe("news", inbox)
        await do("publish", address, "news", "a")
        await do("end", address, "news")
        end = await again.finished
        assert isinstance(end, End)
        self.assertEqual(end.reason, "closed")
        self.assertEqual([type(one) for one in inbox.all], [Message, End])

    async def test_a_failure_of_the_callback_ends_the_subscription(self) -> None:
        do = await self.control()
        cable = self.cable(await do("open"))
        client = await self.start(cable.address)

        def broken(delivery: bellwire.Delivery) -> None:
            raise KeyError("x")

        subscription = await client.subscribe("news", broken)
        await client.publish("news", "a")
        await self.fails(subscription.finished, KeyError)
        await self.until(lambda: b"/unsubscribe news" in cable.written)

    async def test_pausing(self) -> None:
        do = await self.control()
        client = await self.start(await do("open"))
        inbox = Inbox()
        subscription = await client.subscribe("news", inbox)
        subscription.pause()
        await client.publish("news", "a")
        await client.call("echo")
        self.assertEqual(inbox.all, [])
        subscription.resume()
        self.assertEqual((await inbox.next()).payload, b"a")

    async def test_a_refused_subscription(self) -> None:
        do = await self.control()
        client = await self.start(await do("open", "auth"), token="secret")
        await self.fails(client.subscribe("closed", print), Refused)


class Connections(ClientCase):
    async def test_tls(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("offers.example")
        pem = issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
        certificate = PrivateCertificate.fromCertificateAndKeyPair(
            Certificate.loadPEM(pem), KeyPair.load(issued.private_key_pem.bytes(), 1)
        )
        cable = self.cable(offers().address, tls=certificate.options())
        trust = Certificate.loadPEM(authority.cert_pem.bytes())
        client = await self.start(
            cable.address, tls=lambda host: optionsForClientTLS(host, trust), serverHostname="offers.example"
        )
        self.assertEqual((await client.call("random", "1")).payload, b"0")
        distrusting = self.make(cable.address, tls=True, serverHostname="offers.example", reconnect=False)
        distrusting.startService()
        await self.fails(distrusting.whenConnected(), bellwire.TransportFailed)

    async def test_a_unix_socket(self) -> None:
        cable = self.cable(offers().address, path=self.mktemp()[-90:].rpartition("/")[2])
        client = await self.start(cable.address)
        self.assertEqual((await client.call("random", "1")).payload, b"0")

    async def test_a_token_may_be_a_deferred(self) -> None:
        do = await self.control()
        address = await do("open", "auth")

        def fetch() -> Any:
            token: Deferred[str] = Deferred()
            token.callback("secret")
            return token

        for token in ("secret", fetch):
            client = await self.start(address, token=token)
            self.assertEqual((await client.call("echo", "x")).text(), "x")

    async def test_a_wrong_token_ends_the_client(self) -> None:
        do = await self.control()
        client = self.make(await do("open", "auth"), token="wrong")
        client.startService()
        await self.fails(client.whenConnected(), bellwire.AuthenticationFailed)

    async def test_nobody_listens(self) -> None:
        cable = self.cable(kit().address)
        await cable.stop()
        client = self.make(cable.address, reconnect=False)
        client.startService()
        await self.fails(client.whenConnected(), bellwire.TransportFailed)
        await self.fails(client.call("echo"), NotSent)

    async def test_stopping_answers_what_is_in_flight(self) -> None:
        client = await self.start(offers().address)
        call = client.call("random", "1")
        await client.stopService()
        self.assertEqual((await call).payload, b"0")
        self.assertIsInstance(client.ended, bellwire.ClientClosed)
        await self.fails(client.call("random"), NotSent)

    async def test_calls_wait_for_the_service(self) -> None:
        client = self.make(offers().address)
        call = client.call("random", "1")
        client.startService()
        self.assertEqual((await call).payload, b"0")
        self.assertRaises(RuntimeError, client.startService)

    async def test_a_client_that_was_stopped_does_not_start(self) -> None:
        client = self.make(offers().address)
        await client.stopService()
        self.assertRaises(RuntimeError, client.startService)

    async def test_waiting_may_be_cancelled_by_what_waits_beside_it(self) -> None:
        client = self.make(offers().address)
        waits: list[Any] = [client.whenConnected, client.whenEnded]
        for when in waits:
            first, second, third = when(), when(), when()
            first.addCallback(lambda found, other=second: other.cancel())
            if when == client.whenConnected:
                client.startService()
            else:
                client.abort()
            await third
            await first
            await self.fails(second, CancelledError)

    async def test_asking_for_a_token_is_cancelled_with_the_connection(self) -> None:
        do = await self.control()
        cancelled = list[Deferred[str]]()
        asked = list[Deferred[str]]()

        def fetch() -> Deferred[str]:
            asked.append(Deferred(cancelled.append))
            return asked[-1]

        client = self.make(await do("open", "auth"), token=fetch)
        client.startService()
        await self.until(lambda: asked)
        client.abort()
        await self.until(lambda: cancelled == asked)

    async def test_options_of_another_type_are_named(self) -> None:
        self.assertRaises(TypeError, Client, "localhost:7440", tls="server.pem")
        self.assertRaises(TypeError, Client, "localhost:7440", token=1234)

    def test_nothing_is_kept_of_what_comes_after_closing(self) -> None:
        client = self.make("localhost:7440")
        protocol = BellwireProtocol(client._driver, 1)  # of no attempt: it is closed as soon as it is open
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b"x" * 200_000)
        self.assertEqual(protocol._buffer, b"")
        protocol.connectionLost()

    async def test_a_listener_that_fails_is_logged(self) -> None:
        client = self.make(offers().address)

        def broken(event: object) -> None:
            raise KeyError("x")

        stop = client.onEvent(broken)
        client.startService()
        await client.whenConnected()
        stop()
        self.assertGreater(len(self.flushLoggedErrors(KeyError)), 0)

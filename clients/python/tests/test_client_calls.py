"""Calls of the asyncio client, against real servers."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

import bellwire
from bellwire import Client, Config, Failed, NotSent, Refused, Unknown
from conftest import PATIENCE, Control
from relay import relay
from servers import ServerProcess


async def until_waits(control: Control, address: str, names: str) -> None:
    """Waits until handlers wait under these names."""
    async with asyncio.timeout(PATIENCE):
        while await control.do("waits", address) != names:
            await asyncio.sleep(0.01)


async def test_a_reply_is_bytes_text_or_json(client: Client) -> None:
    reply = await client.call("offers.get", "1")
    assert reply.json()["id"] == 1
    assert json.loads(reply.payload) == json.loads(reply.text())
    assert (await client.call_json("offers.get", 2))["id"] == 2


async def test_an_error_of_the_handler(client: Client) -> None:
    with pytest.raises(Failed) as caught:
        await client.call("offers.get", "9999")
    assert caught.value.code == "not-found" and caught.value.may_have_run


async def test_a_refusal(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        await client.call("nosuch")
    assert caught.value.code == "unknown-method" and caught.value.is_safe_to_retry


async def test_a_thousand_calls_side_by_side(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        payloads = [str(n).encode() for n in range(1_000)]
        replies = await asyncio.gather(*(client.call("echo", payload) for payload in payloads))
        assert [reply.payload for reply in replies] == payloads


async def test_any_bytes_come_back(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        for payload in (bytes(range(256)), b" a ", b"\x10J\n\r\x10", "é".encode(), b"x" * 65_000):
            assert (await client.call("echo", payload)).payload == payload


async def test_calls_that_fill_the_transport_are_all_answered(control: Control) -> None:
    async with bellwire.connect(await control.open(), config=Config(outbound_bytes=10_000)) as client:
        replies = await asyncio.gather(*(client.call("echo", b"x" * 60_000) for _ in range(200)))
        assert {len(reply.payload) for reply in replies} == {60_000}


async def test_a_cancelled_task_cancels_the_call_on_the_server(control: Control) -> None:
    address = await control.open()
    async with relay(address) as cable, bellwire.connect(cable.address) as client:
        task = asyncio.create_task(client.call("wait", "x"))
        await until_waits(control, address, "x")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_waits(control, address, "")
        assert b"* /cancel 1\n" in cable.written
        assert (await client.call("echo", "y")).payload == b"y"
        assert client.stats.late_replies == 1


async def test_a_deadline_ends_the_call_on_both_ends(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        with pytest.raises(Unknown) as caught:
            await client.call("wait", "x", deadline=0.2)
        assert caught.value.code == "deadline"
        await until_waits(control, address, "")


async def test_a_call_that_is_lost_is_unknown(control: Control) -> None:
    address = await control.open()
    async with relay(address) as cable, bellwire.connect(cable.address) as client:
        task = asyncio.create_task(client.call("wait", "x"))
        await until_waits(control, address, "x")
        cable.cut()
        with pytest.raises(Unknown):
            await task
        assert (await client.call("echo", "again")).text() == "again"
        assert cable.connections == 2


async def test_a_call_with_a_key_runs_once_over_a_lost_connection(control: Control) -> None:
    address = await control.open()
    async with relay(address) as cable, bellwire.connect(cable.address) as client:
        task = asyncio.create_task(client.call("wait", "x", key="order-17"))
        await until_waits(control, address, "x")
        cable.cut()
        await control.do("finish", address, "x")
        assert (await task).text() == "done x"
        assert cable.written.count(b"wait;key=order-17 x") == 2


async def test_a_key_for_another_request_is_refused(client: Client) -> None:
    offer = '{"title":"Loft","rent":700,"area":30,"city":"Paris","description":"x"}'
    first = await client.call("offers.add", offer, key="same")
    assert (await client.call("offers.add", offer, key="same")).payload == first.payload
    with pytest.raises(Refused, match="key-mismatch"):
        await client.call("offers.add", offer + " ", key="same")


async def test_the_list_of_methods(client: Client) -> None:
    assert ("offers.get", "ID: one offer") in await client.methods()


async def test_a_one_way_request_runs(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        await client.one_way("note", "hello")
        async with asyncio.timeout(PATIENCE):
            while await control.do("notes", address) != "hello":
                await asyncio.sleep(0.01)


async def test_attributes_of_the_application_travel(control: Control) -> None:
    async with relay(await control.open()) as cable, bellwire.connect(cable.address) as client:
        await client.call("echo", "x", attributes={"app.tenant": "blue"})
        assert b"echo;app.tenant=blue x\n" in cable.written


async def test_a_stream_is_read_to_its_end(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        assert [item async for item in client.stream("count", "100", window=8)] == [
            str(n).encode() for n in range(1, 101)
        ]


async def test_a_stream_raises_behind_its_items(control: Control) -> None:
    async with bellwire.connect(await control.open()) as client:
        found = []
        with pytest.raises(Failed, match="broken"):
            async for item in client.stream("count.fail", "3"):
                found.append(item)
        assert found == [b"1", b"2", b"3"]


async def test_the_server_makes_no_items_without_credit(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client, client.stream("steps", "s", window=1) as stream:
        await control.do("finish", address, "s.1")
        async with asyncio.timeout(PATIENCE):
            assert await anext(stream) == b"s.1"
        await until_waits(control, address, "s.2")


async def test_a_stream_that_is_left_is_cancelled(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        async with client.stream("steps", "s") as stream:
            await until_waits(control, address, "s.1")
        await until_waits(control, address, "")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_that_is_forgotten_is_cancelled_with_a_warning(control: Control) -> None:
    address = await control.open()
    async with bellwire.connect(address) as client:
        stream = client.stream("steps", "s")
        await until_waits(control, address, "s.1")
        with pytest.warns(ResourceWarning, match="the stream of steps was not closed"):
            del stream
            gc.collect()
        await until_waits(control, address, "")


async def test_limits_of_the_server_are_kept(control: Control) -> None:
    address = await control.open("in-flight=1", "max-line=1024")
    async with bellwire.connect(address) as client:
        with pytest.raises(NotSent, match="max-line of 1024"):
            await client.call("echo", b"x" * 2_000)
        first = asyncio.create_task(client.call("wait", "a"))
        await until_waits(control, address, "a")
        second = asyncio.create_task(client.call("echo", "b"))
        await control.do("finish", address, "a")
        assert [(await first).text(), (await second).text()] == ["done a", "b"]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.call("/quit"),
        lambda client: client.call("a b"),
        lambda client: client.call("m", key="a b"),
        lambda client: client.call("m", deadline=-1),
        lambda client: client.call("m", attributes={"nodot": "x"}),
        lambda client: client.publish("a//b"),
        lambda client: client.subscribe("t", start="e:1", last=1),
        lambda client: client.subscribe("t", start="nonsense"),
        lambda client: client.subscribe("t", last=0),
        lambda client: client.subscribe("t", window=0),
        lambda client: client.subscribe("t", ack="hand"),
        lambda client: client.subscribe("t", redeliver=True),
        lambda client: client.subscribe("t", slow="never"),
    ],
)
async def test_bad_arguments_raise_before_anything_is_sent(client: Client, call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError):
        await call(client)


async def test_a_payload_of_another_type_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="bytes or str, not int"):
        await client.call("random", 6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "limits", [{"in_flight": 0}, {"max_line": 1_000}, {"probe": 0}, {"in_flight": 1.5}, {"strict": 1}]
)
def test_bad_limits_are_named(limits: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Config(**limits)  # type: ignore[arg-type]


async def test_a_client_that_was_closed_sends_nothing(offers: ServerProcess) -> None:
    client = await bellwire.connect(offers.address)
    await client.close()
    await client.close()
    with pytest.raises(NotSent):
        await client.call("random")
    assert isinstance(client.ended, bellwire.ClientClosed)

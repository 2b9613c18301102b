"""Connections of the asyncio client: TLS, Unix sockets, authentication, failures, events."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

import bellwire
from bellwire import AuthenticationFailed, Client, Config, ProtocolFault, SilentServer, TransportFailed
from conftest import PATIENCE, Control
from relay import refused_address, relay, scripted
from servers import ServerProcess


async def test_tls(offers: ServerProcess) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("offers.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with relay(offers.address, tls=context) as cable:
        async with bellwire.connect(cable.address, tls=trusting, server_hostname="offers.example") as client:
            assert (await client.call("random", "1")).payload == b"0"
        with pytest.raises(TransportFailed, match="certificate"):
            await bellwire.connect(cable.address, tls=trusting)
        with pytest.raises(TransportFailed, match="certificate"):
            await bellwire.connect(cable.address, tls=True, server_hostname="offers.example")


async def test_a_unix_socket(offers: ServerProcess, tmp_path: Path) -> None:
    async with relay(offers.address, path=str(tmp_path / "s")) as cable:
        async with bellwire.connect(cable.address) as client:
            assert (await client.call("random", "1")).payload == b"0"


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":1", "::1:7440", "a:0", "a:65536", "unix:"])
async def test_bad_addresses_are_named(address: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        await bellwire.connect(address)


async def test_a_client_needs_an_address() -> None:
    with pytest.raises(ValueError, match="needs an address"):
        await bellwire.connect()


async def test_a_token_is_sent(control: Control) -> None:
    address = await control.open("auth")
    async with bellwire.connect(address, token="secret") as client:
        assert (await client.call("echo", "x")).text() == "x"

    async def fetch() -> str:
        return "secret"

    async with bellwire.connect(address, token=fetch) as client:
        assert (await client.call("echo", "x")).text() == "x"


async def test_a_wrong_token_is_told(control: Control) -> None:
    address = await control.open("auth")
    with pytest.raises(AuthenticationFailed) as caught:
        await bellwire.connect(address, token="wrong-7f3a")
    assert caught.value.code == "unauthenticated"
    assert "7f3a" not in str(caught.value)


async def test_no_token_where_one_is_asked_for(control: Control) -> None:
    with pytest.raises(AuthenticationFailed, match="the server asks for token"):
        await bellwire.connect(await control.open("auth"))


async def test_a_function_for_the_token_that_fails_is_told(control: Control) -> None:
    def broken() -> str:
        raise KeyError("vault")

    with pytest.raises(AuthenticationFailed, match="failed with KeyError"):
        await bellwire.connect(await control.open("auth"), token=broken)


async def test_nobody_listens() -> None:
    address = await refused_address()
    with pytest.raises(TransportFailed, match=f"cannot connect to {address}"):
        await bellwire.connect(address)


async def test_another_protocol() -> None:
    async with scripted(b"220 mail.example ESMTP\r\n") as address:
        with pytest.raises(ProtocolFault):
            await bellwire.connect(address)


async def test_a_server_that_says_nothing() -> None:
    async with scripted(b"") as address:
        with pytest.raises(SilentServer):
            await bellwire.connect(address, config=Config(connect_timeout=0.2))


async def test_the_second_address_is_taken(offers: ServerProcess) -> None:
    async with bellwire.connect(await refused_address(), offers.address) as client:
        assert (await client.call("random", "1")).payload == b"0"


async def test_calls_wait_for_the_first_connection(offers: ServerProcess) -> None:
    async with Client.start(offers.address) as client:
        assert (await client.call("random", "1")).payload == b"0"
        assert (await client.connected()).max_line == 65_535


async def test_events_tell_of_a_lost_connection(offers: ServerProcess) -> None:
    async with relay(offers.address) as cable, bellwire.connect(cable.address) as client:
        found = []
        events = client.events()
        cable.cut()
        async with asyncio.timeout(PATIENCE):
            found.append(await anext(events))
            while not isinstance(found[-1], bellwire.Connected):
                found.append(await anext(events))
        kinds = [type(event) for event in found]
        assert kinds[0] is bellwire.Disconnected and bellwire.Connecting in kinds


async def test_events_that_are_not_read_are_counted(offers: ServerProcess) -> None:
    async with relay(offers.address) as cable:
        config = Config(held_events=2, reconnect_base=0.01)
        async with bellwire.connect(cable.address, config=config) as client:
            events = client.events()
            for connections in range(2, 5):
                cable.cut()
                async with asyncio.timeout(PATIENCE):
                    while cable.connections < connections:
                        await asyncio.sleep(0.01)
                    await client.call("random")
            missed = await anext(events)
            assert isinstance(missed, bellwire.Missed) and missed.count >= 5


async def test_a_client_that_does_not_reconnect_ends(offers: ServerProcess) -> None:
    async with relay(offers.address) as cable:
        client = await bellwire.connect(cable.address, reconnect=False)
        cable.cut()
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await client.wait_ended(), TransportFailed)
        with pytest.raises(TransportFailed):
            await client.connected()


async def test_aborting_does_not_wait_for_the_other_end_of_tls(offers: ServerProcess) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("offers.example").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with relay(offers.address, tls=context) as cable:
        client = await bellwire.connect(cable.address, tls=trusting, server_hostname="offers.example")
        await client.call("random")
        client.abort()
        for _ in range(3):  # turns of the event loop, which may be about to end
            await asyncio.sleep(0)
        assert not client._driver._lingering

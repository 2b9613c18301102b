"""What an application does wrong, or a hostile server: clear errors, and nothing else is hurt."""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import sys
import warnings
from collections.abc import AsyncIterator

import pytest

import bellwire
from bellwire import AuthenticationFailed, Client, Config, NotSent, Position, Refused, TransportFailed, Unknown
from conftest import PATIENCE, Control
from relay import refused_address, relay, scripted
from servers import ServerProcess

#: Deadlines that no clock reaches.
ENDLESS = [math.inf, sys.float_info.max, 1e306, 10**400]


@pytest.fixture(autouse=True)
async def no_task_fails(limit: None) -> AsyncIterator[None]:
    """Nothing is left to the handler of the event loop: no task that failed, no callback that raised."""
    reports: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(str(context)))
    yield
    gc.collect()
    assert reports == []


@pytest.mark.parametrize("deadline", ENDLESS, ids=lambda value: str(value)[:8])
async def test_a_deadline_may_be_endless(client: Client, deadline: float) -> None:
    assert (await client.call("random", "1", deadline=deadline)).payload == b"0"
    async with await client.subscribe("offers", deadline=deadline):
        pass
    assert client.stats.violations == 0


@pytest.mark.parametrize("deadline", [-1, math.nan, -math.inf])
async def test_a_bad_deadline_is_named_and_nothing_is_left_open(client: Client, deadline: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for asked in (client.call("random", deadline=deadline), client.subscribe("t", deadline=deadline)):
            with pytest.raises(ValueError, match="number of seconds"):
                await asked
        with pytest.raises(ValueError, match="shorter than"):
            client.stream("offers.list", attributes={f"a.{n}": "x" * 255 for n in range(8)})
        gc.collect()


async def test_without_time_nothing_is_sent(offers: ServerProcess) -> None:
    async with relay(offers.address) as cable, bellwire.connect(cable.address) as client:
        with pytest.raises(NotSent):
            await client.subscribe("offers", deadline=0)
        with pytest.raises(NotSent):
            await client.call("random", deadline=0)
        await client.call("random")
        assert cable.written == b"1 random\n"


@pytest.mark.parametrize(
    "start",
    [Position("e\n9 random", 1), Position("a b", 1), Position("é", 1), Position("e", 0), Position("e", 2**53)],
    ids=lambda start: ascii(str(start)),
)
async def test_a_position_that_is_none_is_never_written(offers: ServerProcess, start: Position) -> None:
    async with relay(offers.address) as cable, bellwire.connect(cable.address) as client:
        with pytest.raises(ValueError, match="is not a position"):
            await client.subscribe("offers", start=start)
        with pytest.raises(TypeError, match="Position or str, not int"):
            await client.subscribe("offers", start=5)  # type: ignore[arg-type]
        await client.call("random")
        assert cable.written == b"1 random\n"


async def test_what_is_no_json_is_not_sent(client: Client) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await client.call_json("random", math.nan)


@pytest.mark.parametrize("address", ["a..b:80", f"{'x' * 70}.example:80", "unix:" + "x" * 200])
async def test_a_host_that_cannot_be_one_fails_at_once(address: str) -> None:
    with pytest.raises(TransportFailed, match="cannot connect to"):
        await bellwire.connect(address)


async def test_a_name_for_tls_that_is_none_fails_at_once(offers: ServerProcess) -> None:
    with pytest.raises(TransportFailed, match="cannot connect to"):
        await bellwire.connect(offers.address, tls=True, server_hostname=".x")


async def test_options_of_another_type_are_named() -> None:
    with pytest.raises(TypeError, match="SSLContext or True, not str"):
        Client.start("localhost:7440", tls="server.pem")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text or bytes, not int"):
        Client.start("localhost:7440", token=1234)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="UTF-8") as caught:
        Client.start("localhost:7440", token="secret\ud800")
    assert "secret" not in str(caught.value)


async def test_a_function_for_the_token_that_returns_nothing_is_told(control: Control) -> None:
    address = await control.open("auth")
    with pytest.raises(AuthenticationFailed, match="failed with TypeError"):
        await bellwire.connect(address, token=lambda: None)  # type: ignore[arg-type]


async def test_another_event_loop_is_an_error(client: Client) -> None:
    async with await client.subscribe("offers") as subscription:
        stream = client.stream("offers.list")

        async def misuse() -> None:
            for use in (
                lambda: client.call("random"), lambda: client.subscribe("t"), client.close, client.wait_ended,
                client.connected, lambda: anext(subscription), lambda: anext(stream),
            ):  # fmt: skip
                with pytest.raises(RuntimeError, match="another event loop"):
                    await use()
            with pytest.raises(RuntimeError, match="another event loop"):
                client.stream("offers.list")

        await asyncio.to_thread(asyncio.run, misuse())
        stream.close()
    assert (await client.call("random", "1")).payload == b"0"


async def test_a_server_that_is_busy_does_not_hold_up_connecting() -> None:
    async with scripted(b"* /hello;version=1\n* /bye;last=0 busy\n") as address:
        async with asyncio.timeout(PATIENCE):
            client = await bellwire.connect(address)
        client.abort()


async def test_a_close_that_is_cancelled_at_the_end_of_the_block_drops_the_connection() -> None:
    async with scripted(b"* /hello;version=1\n") as address:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), bellwire.connect(address) as client:
                pass
        assert isinstance(client.ended, bellwire.ClientClosed)


async def test_the_reason_of_the_end_does_not_grow() -> None:
    client = Client.start(await refused_address(), reconnect=False)
    ended = await client.wait_ended()
    depths = set()
    for _ in range(3):
        with pytest.raises(TransportFailed) as caught:
            await client.connected()
        assert caught.value is ended
        depths.add(len(caught.traceback))
    assert len(depths) == 1


@pytest.mark.parametrize(
    "error",
    [
        bellwire.ClientClosed(), bellwire.ClosedByServer("busy"), AuthenticationFailed("a", "b", 3.0),
        Refused("busy", "x", 0.5), Unknown("lost"), TransportFailed("cut"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_travel_between_processes(error: bellwire.BellwireError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


async def test_eager_tasks(offers: ServerProcess) -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        return  # Python 3.11 has none
    asyncio.get_running_loop().set_task_factory(factory)
    async with bellwire.connect(await refused_address(), offers.address, token="x") as client:
        assert (await client.call("random", "1")).payload == b"0"


async def test_the_second_address_of_a_host_is_tried(offers: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere, port = await refused_address(), int(offers.address.rpartition(":")[2])

    async def resolve(host: str, port: int, **options: object) -> list[object]:
        refused = ("127.0.0.1", int(nowhere.rpartition(":")[2]))
        return [(2, 1, 6, "", refused), (2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with bellwire.connect(f"offers.example:{port}") as client:
        assert (await client.call("random", "1")).payload == b"0"


async def test_a_connect_that_is_cancelled_leaves_no_socket(offers: ServerProcess) -> None:
    for turns in range(40):
        connecting = asyncio.ensure_future(_connect_and_close(offers.address))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()


async def _connect_and_close(address: str) -> None:
    client = await bellwire.connect(address, config=Config(close_timeout=1.0))
    client.abort()


async def test_closing_ends_an_attempt_to_connect_before_it_returns() -> None:
    async with scripted(b"") as address:
        client = Client.start(address)
        async for event in client.events():
            if isinstance(event, bellwire.Connecting):
                break
        await client.close()
        assert not client._driver._tasks and not client._driver._transports

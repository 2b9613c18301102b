"""Connecting and reconnecting, on a clock that the tests move."""

from __future__ import annotations

import random

from bellwire import AuthenticationFailed, Config, ConnectFailed, TransportFailed
from bellwire.core.backoff import Backoff
from bellwire.core.core import Core
from bellwire.core.events import Authenticate, Ended, Happened

from bench import Bench


def test_windows_follow_one_another_and_double() -> None:
    config = Config()
    for seed in range(50):
        backoff = Backoff(config, random.Random(seed))
        backoff.begin_row(0.0, held=60.0)
        begin, length = 0.0, 0.25
        for _ in range(12):
            at = backoff.next(begin, 0.0)
            assert begin + 0.1 * length <= at <= begin + length
            begin, length = begin + length, min(30.0, 2 * length)


def test_a_connection_that_held_begins_the_windows_anew() -> None:
    backoff = Backoff(Config(), random.Random(1))
    for _ in range(8):
        backoff.next(0.0, 0.0)
    backoff.begin_row(1_000.0, held=9.9)
    assert backoff.next(1_000.0, 0.0) > 1_001.0
    backoff.begin_row(2_000.0, held=10.0)
    assert backoff.next(2_000.0, 0.0) <= 2_000.25


def test_the_other_address_is_tried_when_the_first_fails() -> None:
    bench = Bench(None, "a:1", "b:2")
    bench.core.start(bench.now)
    bench.settle()
    assert [one.address for one in bench.opens] == ["a:1"]
    bench.core.open_failed(bench.now, 1, TransportFailed("refused"))
    bench.settle()
    assert [one.address for one in bench.opens] == ["a:1", "b:2"]


def test_the_other_address_is_tried_beside_a_slow_one() -> None:
    bench = Bench(None, "a:1", "b:2")
    bench.core.start(bench.now)
    bench.settle()
    bench.advance(0.26)
    assert [one.address for one in bench.opens] == ["a:1", "b:2"]
    bench.core.opened(bench.now, 2)
    bench.settle()
    assert bench.closed == [1]
    bench.say("* /hello;version=1", number=2)
    assert bench.core.current is bench.core.links[2]


def test_a_server_that_says_nothing_has_its_share_of_the_time() -> None:
    bench = Bench(None, "a:1", "b:2")
    bench.core.start(bench.now)
    bench.settle()
    bench.core.opened(bench.now, 1)
    bench.settle()
    bench.advance(5.1)
    assert bench.closed == [1]
    assert [one.address for one in bench.opens] == ["a:1", "b:2"]


def test_a_round_has_a_limit() -> None:
    bench = Bench(Config(connect_timeout=2.0))
    bench.core.start(bench.now)
    bench.settle()
    bench.advance(2.05)
    assert bench.closed == [1]
    bench.advance(1.0)
    assert len(bench.opens) == 2


def test_the_client_gives_up_if_it_is_asked_to() -> None:
    bench = Bench(Config(give_up_after=20.0, connect_timeout=1.0))
    bench.core.start(bench.now)
    bench.settle()
    bench.advance(60.0)
    assert isinstance(bench.events[-1], Ended)


def test_a_bye_begins_a_new_connection_beside_the_old_one() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call("old")
    bench.written()
    bench.advance(11.0)
    bench.say("* /bye shutdown")
    bench.advance(0.26)
    bench.connect(number=2)
    bench.call("new")
    assert bench.written(2) == ["1 new"]
    bench.say("1 ok x", "2 ok;lease=60")  # 2 is a probe
    assert call.result is not None
    assert bench.written() == ["2 /renew", "3 /quit"]  # nothing needs the old connection any more


def test_the_retry_of_a_bye_keeps_from_its_address_only() -> None:
    bench = Bench(None, "a:1", "b:2")
    bench.connect()
    bench.say("* /bye;last=0;retry=60000 busy")
    bench.lose()
    bench.advance(1.0)
    assert bench.opens[-1].address == "b:2"
    bench.core.open_failed(bench.now, 2, TransportFailed("refused"))
    bench.settle()
    bench.advance(40.0)
    assert all(one.address == "b:2" for one in bench.opens[1:])
    bench.advance(200.0)


def authenticating(fixed: bool = True) -> tuple[Core, list[object]]:
    core = Core(["a:1"], Config(), reconnects=True, schemes=["token"], has_fixed_credentials=fixed)
    core.start(0.0)
    core.outputs(0.0)
    core.opened(0.0, 1)
    core.received(0.0, 1, b"* /hello;version=1;auth=token\n")
    return core, list(core.outputs(0.0))


def test_fixed_credentials_that_are_refused_end_the_client() -> None:
    core, outputs = authenticating()
    assert outputs == [Authenticate(1, "token")]
    core.authenticate(0.0, 1, "token", b"secret")
    assert b"1 /auth token secret\n" in [getattr(one, "data", b"") for one in core.outputs(0.0)]
    core.received(0.0, 1, b"1 no unauthenticated\n")
    core.outputs(0.0)
    assert isinstance(core.ended, AuthenticationFailed)
    assert "secret" not in str(core.ended)


def test_credentials_that_change_are_tried_again() -> None:
    core, _ = authenticating(fixed=False)
    core.authenticate(0.0, 1, "token", b"old")
    core.outputs(0.0)
    core.received(0.0, 1, b"1 no unauthenticated\n")
    events = [one.event for one in core.outputs(0.0) if isinstance(one, Happened)]
    assert any(isinstance(event, ConnectFailed) for event in events)
    assert core.ended is None and core.due() < 1.0


def test_credentials_that_are_too_long_are_not_sent() -> None:
    core, _ = authenticating()
    core.authenticate(0.0, 1, "token", b"x" * 9_000)
    events = [one.event for one in core.outputs(0.0) if isinstance(one, Happened)]
    failed = [event.error for event in events if isinstance(event, ConnectFailed)]
    assert isinstance(failed[0], AuthenticationFailed) and failed[0].code == "credentials-too-long"

"""Requests: places, deadlines, outcomes and repetitions, on a clock that the tests move."""

from __future__ import annotations

import pytest

from bellwire import Config, Failed, NotSent, Refused, SilentServer, Unknown
from bellwire.core.events import Disconnected, Ended
from bellwire.core.requests import Call, OneWay, Stream

from bench import Bench


def test_a_deadline_before_the_connection_is_not_sent() -> None:
    bench = Bench()
    call = bench.call(deadline=2.0)
    bench.advance(3.0)
    assert isinstance(call.error, NotSent) and call.error.code == "deadline"
    assert call.error.is_safe_to_retry


def test_a_line_in_the_queue_of_a_blocked_transport_is_taken_back() -> None:
    bench = Bench()
    bench.connect()
    bench.block()
    call = bench.call(deadline=2.0)
    bench.advance(3.0)
    assert isinstance(call.error, NotSent)
    bench.block(False)
    assert bench.written() == []


def test_a_deadline_behind_the_sending_is_unknown_and_cancels() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call(payload="x", deadline=2.0)
    assert bench.written() == ["1 m;ttl=2000 x"]
    bench.advance(3.0)
    assert isinstance(call.error, Unknown) and call.error.may_have_run
    assert bench.written() == ["* /cancel 1"]


def test_the_default_deadline_is_not_told_to_the_server() -> None:
    bench = Bench(Config(deadline=5.0))
    bench.connect()
    call = bench.call()
    assert bench.written() == ["1 m"]
    bench.advance(6.0)
    assert isinstance(call.error, Unknown)


def test_a_tombstone_holds_its_place() -> None:
    bench = Bench()
    bench.connect(";in-flight=1")
    first, second = bench.call("a"), bench.call("b")
    assert bench.written() == ["1 a"]
    bench.core.give_up(bench.now, first)
    bench.settle()
    assert bench.written() == ["* /cancel 1"]
    bench.say("1 cut cancelled")
    assert bench.written() == ["2 b"]
    bench.say("2 ok x")
    assert second.result and second.result.payload == b"x"
    assert bench.core.stats.late_replies == 1


def test_calls_wait_while_too_much_is_unwritten() -> None:
    bench = Bench(Config(outbound_bytes=100))
    bench.connect()
    bench.block()
    for _ in range(5):
        bench.call(payload="x" * 60)
    assert bench.core.links[1].out_bytes < 200
    bench.block(False)
    assert len(bench.written()) == 5


def test_one_call_too_many_is_not_sent() -> None:
    bench = Bench(Config(waiting_calls=2))
    calls = [bench.call() for _ in range(3)]
    assert [call.done for call in calls] == [False, False, True]
    assert isinstance(calls[2].error, NotSent) and calls[2].error.code == "waiting"


def test_payloads_that_wait_are_bounded() -> None:
    bench = Bench(Config(waiting_bytes=100))
    first, second = bench.call(payload="x" * 90), bench.call(payload="x" * 20)
    assert not first.done
    assert isinstance(second.error, NotSent)
    bench.core.give_up(bench.now, first)
    assert not bench.call(payload="x" * 90).done


def test_a_call_that_was_given_up_while_it_waits_leaves_nothing() -> None:
    bench = Bench()
    bench.core.give_up(bench.now, bench.call())
    bench.connect()
    assert bench.written() == []


def test_a_line_over_the_limit_of_the_server_is_not_sent() -> None:
    bench = Bench()
    bench.connect(";max-line=1024")
    assert isinstance(bench.call(payload="x" * 1_020).error, NotSent)
    assert not bench.call(payload="x" * 1_019).done


def test_a_lost_call_is_unknown_and_what_was_not_offered_goes_on() -> None:
    bench = Bench()
    bench.connect()
    lost = bench.call("lost")
    bench.written()
    bench.block()
    waits = bench.call("waits")
    bench.lose()
    assert isinstance(lost.error, Unknown)
    assert not waits.done
    bench.advance(1.0)
    bench.connect(number=2)
    assert bench.written(2) == ["1 waits"]


def test_without_reconnecting_what_was_not_offered_is_not_sent() -> None:
    bench = Bench(reconnects=False)
    bench.connect()
    bench.block()
    call = bench.call()
    bench.lose()
    assert isinstance(call.error, NotSent)
    assert isinstance(bench.events[-1], Ended)
    assert isinstance(bench.call().error, NotSent)


def test_an_idempotent_call_is_repeated_and_its_refusal_is_unknown() -> None:
    bench = Bench()
    bench.connect()
    call = Call("m", b"")
    call.idempotent = True
    bench.core.submit(bench.now, call)
    bench.settle()
    bench.lose()
    bench.advance(1.0)
    bench.connect(number=2)
    assert bench.written(2) == ["1 m"]
    bench.say("1 no forbidden", number=2)
    assert isinstance(call.error, Unknown)


def test_closing_without_a_bye_is_repeated_after_a_pause() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call()
    bench.written()
    bench.say("1 no closing")
    assert bench.written() == []
    bench.advance(0.26)
    assert bench.written() == ["2 m"]
    bench.say("2 ok")
    assert call.result is not None


def test_a_retry_behind_the_deadline_is_a_refusal() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call(deadline=1.0)
    bench.say("1 no;retry=5000 busy")
    assert isinstance(call.error, Refused) and call.error.retry == 5.0


def test_above_the_last_is_sent_again_once() -> None:
    bench = Bench()
    bench.connect()
    first, second = bench.call("a"), bench.call("b")
    bench.written()
    bench.say("* /bye;last=1 shutdown", "1 ok", "2 no closing")
    assert first.result is not None and not second.done
    bench.advance(1.0)
    bench.connect(number=2)
    assert bench.written(2) == ["1 b"]


def test_an_err_keeps_its_text_for_people() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call()
    bench.say("1 err not-found no offer 100")
    assert isinstance(call.error, Failed)
    assert str(call.error) == "the handler failed: not-found (no offer 100)"


def test_credit_comes_back_by_half_of_the_window() -> None:
    bench = Bench()
    bench.connect()
    stream = Stream("s", b"", {}, 4)
    bench.core.submit(bench.now, stream)
    bench.settle()
    assert bench.written() == ["1 s;window=4"]
    bench.say(*(f"1 more {n}" for n in range(4)))
    assert [bench.core.take_item(bench.now, stream) for _ in range(3)] == [b"0", b"1", b"2"]
    bench.settle()
    assert bench.written() == ["* /more 1 2"]
    bench.say("1 more 4", "1 more 5", "1 more 6")
    assert isinstance(stream.error, Unknown)  # two were allowed
    assert bench.written() == ["* /cancel 1"]


def test_credit_behind_a_blocked_transport_is_one_line() -> None:
    bench = Bench()
    bench.connect()
    stream = Stream("s", b"", {}, 2)
    bench.core.submit(bench.now, stream)
    bench.settle()
    bench.written()
    bench.say("1 more a", "1 more b")
    bench.block()
    for _ in range(2):
        bench.core.take_item(bench.now, stream)
        bench.settle()
    bench.block(False)
    assert bench.written() == ["* /more 1 2"]


def test_a_one_way_request_is_done_when_it_is_offered() -> None:
    bench = Bench()
    bench.connect()
    bench.block()
    sent = OneWay("note", b"x")
    bench.core.submit(bench.now, sent)
    bench.settle()
    assert not sent.done
    bench.block(False)
    assert sent.done and bench.written() == ["* note x"]


def test_a_silent_server_is_probed_and_then_given_up() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call(deadline=60.0)
    bench.written()
    bench.advance(10.1)
    assert bench.written() == ["2 /renew"]
    bench.advance(10.1)
    assert isinstance(call.error, Unknown)
    assert any(isinstance(event, Disconnected) and isinstance(event.error, SilentServer) for event in bench.events)


def test_a_probe_that_the_transport_does_not_take_has_longer() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call(deadline=90.0)
    bench.block()
    bench.advance(30.0)
    assert not call.done
    bench.advance(20.0)
    assert isinstance(call.error, Unknown)


def test_an_idle_client_sends_a_first_line_and_renews() -> None:
    bench = Bench()
    bench.connect(";idle=120;lease=600")
    bench.advance(5.1)
    assert bench.written() == ["1 /renew"]
    bench.say("1 ok;lease=600")
    bench.advance(95.0)
    assert "/renew" in bench.written()[0]


def test_close_answers_what_is_in_flight() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call()
    bench.core.close(bench.now)
    bench.settle()
    assert bench.written() == ["1 m", "2 /quit"]
    assert isinstance(bench.call().error, NotSent)
    bench.say("1 ok x", "2 ok")
    assert call.result and call.result.payload == b"x"
    bench.lose()
    assert bench.core.ended is not None


def test_close_has_a_limit() -> None:
    bench = Bench(Config(close_timeout=3.0))
    bench.connect()
    bench.core.close(bench.now)
    bench.settle()
    bench.advance(3.1)
    assert bench.closed == [1] and bench.core.ended is not None


def test_a_long_list_of_methods_is_given_up() -> None:
    from bellwire.core.requests import Methods

    bench = Bench()
    bench.connect()
    methods = Methods(200)
    bench.core.submit(bench.now, methods)
    bench.settle()
    bench.say("1 more a.b first", "1 more c", "1 more " + "d" * 100)
    assert isinstance(methods.error, Unknown)
    bench.say("1 ok")
    assert bench.core.stats.late_replies == 1


def test_attributes_that_are_too_long_for_a_head_are_named() -> None:
    bench = Bench()
    call = Call("m", b"", {f"a.{n}": "x" * 255 for n in range(8)})
    with pytest.raises(ValueError, match="shorter than"):
        bench.core.submit(bench.now, call)


def test_what_is_late_when_the_connection_comes_is_not_sent() -> None:
    bench = Bench()
    call, subscription = bench.call(deadline=2.0), bench.subscribe(deadline=2.0)
    bench.now += 3.0  # the turn of the event loop reads the /hello before it looks at its timers
    bench.connect()
    assert isinstance(call.error, NotSent) and isinstance(subscription.error, NotSent)
    assert bench.written() == []


def test_a_repeat_that_is_refused_with_a_retry_is_repeated() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call(idempotent=True)
    bench.lose()
    bench.advance(1.0)
    bench.connect(number=2)
    bench.say("1 no;retry=100 busy", number=2)
    assert bench.written(2) == ["1 m"]
    bench.advance(1.0)
    assert bench.written(2) == ["2 m"]
    bench.say("2 no;retry=600000 busy", number=2)
    assert isinstance(call.error, Unknown)


def test_an_idempotent_call_that_is_cut_off_pauses_before_it_is_repeated() -> None:
    bench = Bench()
    bench.connect()
    call = bench.call(idempotent=True)
    bench.written()
    bench.say("1 cut closing")
    assert bench.written() == []
    bench.advance(0.26)
    assert bench.written() == ["2 m"]
    bench.say("2 ok x")
    assert call.result is not None


def test_calls_that_pause_are_bounded_like_those_that_wait() -> None:
    bench = Bench(Config(waiting_calls=2, waiting_bytes=100))
    bench.connect(";in-flight=8")
    first, second = bench.call(payload="x" * 60), bench.call(payload="x" * 60)
    bench.say("1 no;retry=1000 busy", "2 no;retry=1000 busy")
    assert not first.done
    assert isinstance(second.error, Refused) and second.error.retry == 1.0
    bench.core.give_up(bench.now, first)
    bench.advance(0.1)
    third = bench.call(payload="x" * 60)
    bench.say("3 no;retry=1000 busy")
    assert not third.done

"""Subscriptions: positions, acks, redelivery, bounds, on a clock that the tests move."""

from __future__ import annotations

import random

from bellwire import Config, End, Gap, Message, NotSent, Position, Refused, Reset, Unknown
from bellwire.core.acks import Acks
from bellwire.core.inbox import Inbox
from bellwire.core.subscription import Stage, Subscription, Terms

from bench import Bench

OK = "1 ok;epoch=e;next=1;head=0;lease=60"


def listening(bench: Bench, terms: Terms | None = None, hello: str = "") -> Subscription:
    bench.connect(hello)
    subscription = bench.subscribe(terms=terms)
    bench.say(OK)
    bench.written()
    return subscription


def again(bench: Bench, number: int = 2) -> None:
    """The connection is lost, and there is another one."""
    bench.lose(number - 1)
    bench.advance(1.0)
    bench.connect(number=number)


def test_the_inbox_drops_the_oldest_and_names_them() -> None:
    inbox = Inbox(3, 10_000)
    for number in range(1, 6):
        inbox.push(Message(number, b"", "e"))
    assert [inbox.pop() for _ in range(4)] == [
        Gap(1, 2, "lagged"), Message(3, b"", "e"), Message(4, b"", "e"), Message(5, b"", "e"),
    ]  # fmt: skip
    assert inbox.pop() is None


def test_the_inbox_is_bounded_by_bytes() -> None:
    inbox = Inbox(1_000, 1_000)
    for number in range(1, 11):
        inbox.push(Message(number, b"x" * 300, "e"))
    first = inbox.pop()
    assert isinstance(first, Gap) and first.first == 1
    assert len(inbox) == 10 - first.last


def test_a_reset_that_is_dropped_is_still_told() -> None:
    inbox = Inbox(1, 10_000)
    inbox.push(Message(7, b"", "e"))
    inbox.push(Reset(Position("f", 1)))
    inbox.push(Message(1, b"", "f"))
    inbox.push(Reset(Position("g", 4)))
    inbox.push(Message(4, b"", "g"))
    inbox.push(Message(5, b"", "g"))
    inbox.push(End("closed", None))
    found = [inbox.pop() for _ in range(len(inbox))]
    assert found == [
        Gap(7, 7, "lagged"), Reset(Position("g", 4)), Gap(4, 4, "lagged"), Message(5, b"", "g"),
        End("closed", None),
    ]  # fmt: skip
    assert not inbox.has_reset


def test_acks_in_any_order_are_the_same_as_a_set() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        acks, done = Acks(8, 1), set[int]()
        for _ in range(30):
            first = rng.randint(1, 40)
            last = min(40, first + rng.randint(0, 3))
            acks.done(first, last)
            done |= set(range(first, last + 1))
        low = next(number for number in range(1, 50) if number not in done)
        assert acks.low == low
        assert {number for number in range(1, 45) if acks.is_done(number)} == done | set(range(1, low))


def test_an_ack_is_not_above_what_came() -> None:
    acks = Acks(2, 1)
    acks.done(1, 5)
    acks.delivered(1)
    assert acks.due(wire=2) == 2


def test_messages_handled_out_of_order_are_acknowledged_up_to_the_hole() -> None:
    bench = Bench()
    subscription = listening(bench, Terms(window=4, by_hand=True))
    bench.say(*(f"* t {n}" for n in range(1, 5)))
    taken = [one for one in bench.take_all(subscription) if isinstance(one, Message)]
    bench.core.ack(bench.now, subscription, taken[2])
    bench.core.ack(bench.now, subscription, taken[0])
    bench.settle()
    assert bench.written() == []  # only 1 is below the hole, and that is less than half
    bench.core.ack(bench.now, subscription, taken[1])
    bench.settle()
    assert bench.written() == ["* /ack t e:4"]


def test_acks_behind_a_blocked_transport_are_one_line() -> None:
    bench = Bench()
    subscription = listening(bench, Terms(window=1))
    bench.block()
    for number in range(1, 4):
        bench.say(f"* t {number}")
        bench.take_all(subscription)
    bench.block(False)
    assert bench.written() == ["* /ack t e:4"]


def test_redelivery_marks_what_was_taken_and_only_that() -> None:
    bench = Bench()
    subscription = listening(bench, Terms(window=8, redeliver=True))
    bench.say(*(f"* t {n}" for n in range(1, 5)))
    first = bench.core.take(bench.now, subscription)
    second = bench.core.take(bench.now, subscription)
    assert isinstance(first, Message) and isinstance(second, Message)
    bench.core.ack(bench.now, subscription, second)
    again(bench)
    assert bench.written(2) == ["1 /subscribe;from=e:1;window=8 t"]
    bench.say("1 ok;epoch=e;next=1;head=4", *(f"* t {n}" for n in range(1, 5)), number=2)
    found = [(one.sequence, one.redelivered) for one in bench.take_all(subscription) if isinstance(one, Message)]
    assert found == [(1, True), (3, False), (4, False)]


def test_a_reset_during_a_redelivery_names_what_was_discarded() -> None:
    bench = Bench()
    subscription = listening(bench, Terms(window=8, redeliver=True))
    bench.say(*(f"* t {n}" for n in range(1, 6)))
    bench.core.take(bench.now, subscription)
    bench.core.take(bench.now, subscription)
    again(bench)
    bench.say("1 ok;epoch=e;next=1;head=5", "* t 1", "* /reset t f:1", number=2)
    assert bench.take_all(subscription) == [
        Message(1, b"", "e", True), Gap(3, 5, "lost"), Reset(Position("f", 1)),
    ]  # fmt: skip


def test_a_resume_in_another_epoch_keeps_what_was_received() -> None:
    bench = Bench()
    subscription = listening(bench, Terms(window=8, redeliver=True))
    bench.say("* t 1", "* t 2")
    again(bench)
    bench.say("1 ok;epoch=f;next=1;head=0", number=2)
    assert bench.take_all(subscription) == [Message(1, b"", "e"), Message(2, b"", "e"), Reset(Position("f", 1))]


def test_last_is_asked_for_once() -> None:
    bench = Bench()
    bench.connect()
    bench.subscribe(terms=Terms(last=5))
    assert bench.written() == ["1 /subscribe;last=5 t"]
    bench.say("1 ok;epoch=e;next=8;head=12")
    again(bench)
    assert bench.written(2) == ["1 /subscribe;from=e:8 t"]


def test_a_topic_that_is_being_left_is_asked_for_after_the_answer() -> None:
    bench = Bench()
    first = listening(bench)
    bench.core.unsubscribe(bench.now, first)
    second = bench.subscribe()
    assert bench.written() == ["2 /unsubscribe t"]
    bench.say("* t 1 ignored", "2 ok;next=e:2")
    assert bench.written() == ["3 /subscribe t"]
    bench.say("3 ok;epoch=e;next=2;head=1", "* t 2 x")
    assert bench.take_all(second) == [Message(2, b"x", "e")]
    assert first.stage is Stage.OVER and bench.core.stats.violations == 0


def test_a_subscribe_that_is_given_up_is_left_at_its_ok() -> None:
    bench = Bench()
    bench.connect()
    bench.core.unsubscribe(bench.now, bench.subscribe())
    bench.written()
    bench.say(OK)
    assert bench.written() == ["2 /unsubscribe t"]


def test_a_subscribe_has_a_deadline() -> None:
    bench = Bench(Config(deadline=3.0))
    bench.connect()
    subscription = bench.subscribe()
    bench.written()
    bench.advance(3.1)
    assert isinstance(subscription.error, Unknown)
    bench.say(OK)
    assert bench.written() == ["2 /unsubscribe t"]


def test_a_subscribe_without_a_connection_is_not_sent_at_its_deadline() -> None:
    bench = Bench(Config(deadline=1.0))
    subscription = bench.subscribe()
    bench.advance(1.1)
    assert isinstance(subscription.error, NotSent)


def test_a_refusal_of_the_first_subscribe_is_told_to_its_task() -> None:
    bench = Bench()
    bench.connect()
    subscription = bench.subscribe()
    bench.say("1 no;retry=5 busy")
    assert isinstance(subscription.error, Refused) and subscription.error.retry == 0.005
    bench.subscribe()  # the topic is free again


def test_an_old_number_is_counted_and_an_own_position_kept() -> None:
    bench = Bench()
    subscription = listening(bench)
    bench.say("* t 1", "* t 1", "* /gap t f 2 3 retention", "* /reset t e:9", "* u 1")
    assert bench.core.stats.violations == 4
    assert subscription.position == Position("e", 2)


def test_the_end_is_the_last_delivery_even_if_the_client_does_not_reconnect() -> None:
    bench = Bench(reconnects=False)
    subscription = listening(bench)
    bench.say("* t 1 x")
    bench.lose()
    assert bench.take_all(subscription) == [Message(1, b"x", "e"), End("lost", Position("e", 2))]


def test_no_position_names_what_follows_the_greatest_number() -> None:
    bench = Bench()
    bench.connect()
    subscription = bench.subscribe()
    bench.say(f"1 ok;epoch=e;next={2**53 - 1};head=1", f"* t {2**53 - 1} x")
    again(bench)
    assert bench.take_all(subscription)[1:] == [End("exhausted", Position("e", 2**53))]


def test_a_long_list_is_asked_for_in_lines() -> None:
    bench = Bench()
    listening(bench, hello=";lease=4")
    bench.advance(3.1)
    bench.written()
    bench.say("2 err too-large")
    assert bench.written() == ["3 /renew;list=more"]
    bench.say("3 more t:e:4", "3 ok;lease=4")
    assert bench.core.links[1].topics["t"].position == Position("e", 4)
    bench.advance(3.1)
    assert bench.written() == ["4 /renew;list=more"]


def test_a_server_that_does_not_know_list_is_renewed_without() -> None:
    bench = Bench()
    listening(bench, hello=";lease=4")
    bench.advance(3.1)
    bench.written()
    bench.say("2 err too-large")
    bench.say("3 no unknown-attribute list")
    assert bench.written() == ["3 /renew;list=more", "4 /renew"]
    bench.say("4 err too-large")
    assert bench.written() == []


def test_an_after_is_satisfied_once_it_was_taken() -> None:
    bench = Bench()
    subscription = listening(bench)
    bench.say("* t 1 x")
    assert not subscription.has_seen(Position("e", 2))
    bench.take_all(subscription)
    assert subscription.has_seen(Position("e", 2))
    assert not subscription.has_seen(Position("e", 3))
    assert subscription.has_seen(Position("f", 3))


def test_a_subscribe_that_is_not_offered_is_taken_back_at_its_deadline() -> None:
    bench = Bench()
    bench.connect()
    bench.block()
    subscription = bench.subscribe(deadline=3.0)
    bench.advance(3.1)
    assert isinstance(subscription.error, NotSent)
    bench.core.unsubscribe(bench.now, bench.subscribe())
    last = bench.subscribe()
    bench.block(False)
    assert [line for line in bench.written() if "/renew" not in line] == ["3 /subscribe t"]
    bench.say("3 ok;epoch=e;next=1;head=0")
    assert last.stage is Stage.LISTENING


def test_a_copy_that_waits_is_not_delivered_once_the_message_is_acknowledged() -> None:
    bench = Bench()
    subscription = listening(bench, Terms(window=8, redeliver=True))
    bench.say("* t 1", "* t 2")
    first, second = bench.take_all(subscription)
    again(bench)
    bench.say("1 ok;epoch=e;next=1;head=2", "* t 1", "* t 2", "* t 3", number=2)
    assert isinstance(first, Message) and isinstance(second, Message)
    bench.core.ack(bench.now, subscription, first)
    assert bench.take_all(subscription) == [Message(2, b"", "e", redelivered=True), Message(3, b"", "e")]

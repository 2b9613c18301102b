//! The history checker itself: good histories pass, and each rule finds those planted for it.
//!
//! A planted history is written as the log prints it, without the time, and `;` may stand for the
//! end of a line. It breaks one rule and no other, at the client `ada`.

use std::collections::BTreeSet;

use bellwire_testkit::history::{
    Asked, Broken, Cause, Event, History, Line, Number, Outcome, Rule, Span, Word, numbers::Numbers,
};

#[test]
fn an_empty_history_holds() {
    holds("");
}

/// A client over a connection that breaks, a server that is restarted, and every other kind of
/// event.
#[test]
fn a_complete_history_holds() {
    holds(RUN);
}

const RUN: &str = "
    ada called 1; ada wire 1 > 1 call 1; s1 started 1; s1 finished 1
    ada wire 1 < 1 ok; ada ended 1 ok names=1
    ada wire 1 > 2 /subscribe t; ada wire 1 < 2 ok; ada subscribed 1 t e:3
    bob publishing t a; s1 published t e:3 a; ada wire 1 < * t 3
    ada delivered 1 e:3 a; ada seen 1 e:3
    ada called 2; ada wire 1 > 3 call 2; s1 started 2
    ada wire 1 < * /gap t e:4-6; ada missed 1 e:4-6 server
    s1 note crash; s1 finished 2; ada wire 1 closed; ada ended 2 unknown
    ada called 3; ada ended 3 not-sent
    ada called 4; ada wire 2 > 1 /subscribe t; ada wire 2 > 2 call 4
    ada wire 2 < 1 ok; ada reset 1 f:1; ada wire 2 < 2 no; ada ended 4 refused
    bob publishing t b; bob publishing t b; bob unpublished t b
    ada wire 2 < * t 1; ada delivered 1 f:1 b; bob published t f:1 b
    ada called 5 key=k; ada wire 2 > 3 call 5; s1 started 5; ada wire 2 < 3 more; ada given-up 5
    s1 finished 5; ada wire 2 < 3 cut
    ada wire 2 < * /reset t; ada reset 1 g:1; s1 dropped ada 2 t g:1-1; ada missed 1 g:1-1 server
    ada wire 2 > 4 /unsubscribe t; ada over 1 g:2; ada wire 2 < 4 ok
    ada wire 2 > 5 /subscribe t; ada wire 2 < 5 ok; ada subscribed 2 t g:2
    ada wire 2 < * t 2; bob publishing t c; bob published t g:2 c; ada missed 2 g:2-2 lagged
    ada wire 2 < * /end t; ada wire 2 > 6 other; ada wire 2 < 6 err; ada wire 2 < * /bye last=6
    s1 head t g:3; s1 quiet; ada left 2";

// Starts.

#[test]
fn a_call_is_started_as_often_as_its_outcome_allows() {
    for never in ["ended 1 not-sent", "ended 1 refused", "ended 1 unknown", "given-up 1"] {
        holds(&format!("ada called 1; ada {never}"));
    }
    for once in ["ended 1 ok names=1", "ended 1 remote", "ended 1 unknown", "given-up 1"] {
        holds(&format!("ada called 1; s1 started 1; ada {once}"));
    }
    for late in ["ended 1 unknown", "given-up 1"] {
        holds(&format!("ada called 1; ada {late}; s1 started 1"));
    }
}

#[test]
fn a_second_start_is_found() {
    for end in ["ended 1 ok names=1", "ended 1 remote", "ended 1 unknown", "given-up 1"] {
        breaks(Rule::Starts, &format!("ada called 1; s1 started 1; s2 started 1; ada {end}"));
        breaks(Rule::Starts, &format!("ada called 1; s1 started 1; ada {end}; s1 started 1"));
    }
}

#[test]
fn a_start_of_a_call_reported_as_not_run_is_found() {
    for end in ["not-sent", "refused"] {
        breaks(Rule::Starts, &format!("ada called 1; s1 started 1; ada ended 1 {end}"));
        breaks(Rule::Starts, &format!("ada called 1; ada ended 1 {end}; s1 started 1"));
    }
}

#[test]
fn a_reply_without_a_start_is_found() {
    for end in ["ok names=1", "remote"] {
        breaks(Rule::Starts, &format!("ada called 1; ada ended 1 {end}"));
        breaks(Rule::Starts, &format!("ada called 1; ada ended 1 {end}; s1 started 1"));
    }
}

#[test]
fn a_start_without_a_call_is_found() {
    breaks(Rule::Starts, "ada started 1");
    breaks(Rule::Starts, "ada started 1; ada called 1; ada ended 1 unknown");
}

#[test]
fn a_key_is_started_once() {
    let both = "ada called 1 key=k; s1 started 1; ada ended 1 ok names=1; ada called 2 key=k";
    holds(&format!("{both}; ada ended 2 ok names=1"));
    breaks(Rule::Starts, &format!("{both}; s1 started 2; ada ended 2 ok names=2"));
    holds(
        "ada called 1 key=k; ada ended 1 refused; ada called 2 key=k; s1 started 2
         ada ended 2 ok names=2",
    );
    holds(
        "ada called 1 key=k; ada called 2 key=l; ada given-up 1; ada given-up 2; s1 started 1; s1 started 2",
    );
    breaks(
        Rule::Starts,
        "ada called 1 key=k; ada called 2 key=k; ada ended 1 ok names=1; s1 started 1
         ada ended 2 ok names=1",
    );
    let void = "ada called 1 key=k; ada called 2 key=k; ada ended 1 refused; ada ended 2 not-sent";
    breaks(Rule::Starts, &format!("{void}; s1 started 1"));
}

// Outcomes and replies.

#[test]
fn a_call_without_an_outcome_is_found() {
    breaks(Rule::Outcomes, "ada called 1");
    breaks(Rule::Outcomes, "ada called 1; s1 started 1");
}

#[test]
fn a_second_outcome_is_found() {
    breaks(Rule::Outcomes, "ada called 1; ada ended 1 unknown; ada ended 1 not-sent");
    breaks(Rule::Outcomes, "ada called 1; ada given-up 1; ada ended 1 unknown");
    breaks(Rule::Outcomes, "ada called 1; ada given-up 1; ada given-up 1");
}

#[test]
fn an_outcome_without_a_call_is_found() {
    breaks(Rule::Outcomes, "ada ended 1 not-sent");
    breaks(Rule::Outcomes, "ada given-up 1");
    breaks(Rule::Outcomes, "ada ended 1 not-sent; ada called 1");
}

#[test]
fn a_call_that_is_begun_twice_is_found() {
    breaks(Rule::Outcomes, "ada called 1; ada called 1; ada ended 1 not-sent");
}

#[test]
fn a_reply_delivered_to_another_call_is_found() {
    for names in [0, 2] {
        let ended = format!("ada ended 1 ok names={names}; ada given-up 2");
        breaks(Rule::Replies, &format!("ada called 1; ada called 2; s1 started 1; {ended}"));
        breaks(Rule::Replies, &format!("ada called 1 key=k; ada called 2; s1 started 1; {ended}"));
    }
}

// One-way requests.

#[test]
fn a_one_way_may_be_sent_once_or_be_lost() {
    holds("ada told 1; ada wire 1 > * tell 1; s1 heard 1; ada wire 1 closed");
    holds("ada told 1; s1 heard 1; ada told 2; s1 heard 2");
    for lost in ["ada wire 1 > * tell 1; ada wire 1 closed", "ada untold 1", "ada note crash"] {
        holds(&format!("ada told 1; {lost}"));
    }
}

#[test]
fn a_one_way_on_the_wire_twice_is_found() {
    let line = "ada told 1; ada wire 1 > * tell 1";
    for between in ["ada note cut", "s1 heard 1", "ada wire 1 closed"] {
        for again in [2, 3] {
            breaks(Rule::OneWays, &format!("{line}; {between}; ada wire {again} > * tell 1"));
        }
    }
    breaks(Rule::OneWays, &format!("{line}; ada wire 1 > * tell 1"));
}

#[test]
fn a_one_way_that_is_started_again_is_found() {
    let line = "ada told 1; ada wire 1 > * tell 1; s1 heard 1";
    breaks(Rule::OneWays, &format!("{line}; s1 heard 1"));
    breaks(Rule::OneWays, &format!("{line}; s2 heard 1"));
}

#[test]
fn a_one_way_start_without_a_sender_is_found() {
    breaks(Rule::OneWays, "ada wire 1 > * tell 1");
    breaks(Rule::OneWays, "ada wire 1 > * tell 1; s1 heard 1; ada told 1");
    breaks(Rule::OneWays, "ada heard 1; ada told 1");
    breaks(Rule::OneWays, "ada told 1; ada told 1");
}

#[test]
fn a_start_of_an_unsent_one_way_is_found() {
    for passed in ["ada wire 1 > * tell 1", "s1 heard 1"] {
        breaks(Rule::OneWays, &format!("ada told 1; ada untold 1; {passed}"));
        breaks(Rule::OneWays, &format!("ada told 1; {passed}; ada untold 1"));
    }
}

// What the wire says of calls.

#[test]
fn an_outcome_may_match_its_lines_on_the_wire() {
    let run = "ada called 1; ada wire 1 > 1 call 1; s1 started 1; s1 finished 1";
    holds(&format!("{run}; ada wire 1 < 1 ok; ada ended 1 ok names=1"));
    holds(&format!("{run}; ada wire 1 < 1 err; ada ended 1 remote"));
    for word in ["ok", "err", "cut"] {
        holds(&format!("{run}; ada wire 1 < 1 {word}; ada ended 1 unknown"));
        holds(&format!("{run}; ada ended 1 unknown; ada wire 1 < 1 {word}"));
    }
    holds(&format!("{run}; ada wire 1 closed; ada ended 1 unknown"));
    holds("ada called 1; ada wire 1 > 1 call 1; ada wire 1 < 1 no; ada ended 1 refused");
}

#[test]
fn a_line_of_an_unsent_call_is_found() {
    let line = "ada wire 1 > 1 call 1; ada wire 1 closed";
    breaks(Rule::Proof, &format!("ada called 1; {line}; ada ended 1 not-sent"));
    breaks(Rule::Proof, &format!("ada called 1; ada ended 1 not-sent; {line}"));
    let line = "ada wire 1 > 1 call 1; ada wire 1 < 1 no";
    breaks(Rule::Proof, &format!("ada called 1; {line}; ada ended 1 not-sent"));
}

#[test]
fn an_outcome_that_contradicts_the_wire_is_found() {
    let run = "ada called 1; ada wire 1 > 1 call 1; s1 started 1; s1 finished 1";
    for (word, end) in
        [("err", "ok names=1"), ("cut", "ok names=1"), ("ok", "remote"), ("cut", "remote")]
    {
        breaks(Rule::Proof, &format!("{run}; ada wire 1 < 1 {word}; ada ended 1 {end}"));
    }
    for (word, end) in [("ok", "ok names=1"), ("err", "remote")] {
        breaks(Rule::Proof, &format!("{run}; ada ended 1 {end}; ada wire 1 < 1 {word}"));
    }
    for end in ["ok names=1", "remote"] {
        breaks(Rule::Proof, &format!("{run}; ada ended 1 {end}; ada wire 1 closed"));
    }
    for left in ["ada wire 1 < 1 cut", "ada wire 1 closed"] {
        breaks(
            Rule::Proof,
            &format!("ada called 1; ada wire 1 > 1 call 1; {left}; ada ended 1 refused"),
        );
    }
}

#[test]
fn a_call_proven_not_executed_may_be_resent() {
    let first = "ada called 1; ada wire 1 > 9 call 1";
    let again = "ada wire 2 > 4 call 1; s1 started 1; s1 finished 1; ada wire 2 < 4 ok";
    let ended = "ada ended 1 ok names=1";
    holds(&format!("{first}; ada wire 1 < 9 no; {again}; {ended}; ada wire 1 closed"));
    holds(&format!("{first}; ada wire 1 < * /bye last=8; ada wire 1 closed; {again}; {ended}"));
    // The refusal may pass when it runs elsewhere.
    holds(&format!("{first}; ada wire 1 < * /bye last=8; {again}; ada wire 1 < 9 no; {ended}"));
    holds(&format!("{first}; ada wire 1 < * /bye last=8; ada wire 1 closed; ada ended 1 refused"));
}

#[test]
fn a_resend_of_a_possibly_executed_call_is_found() {
    let first = "ada called 1; ada wire 1 > 9 call 1";
    let again = "ada wire 2 > 4 call 1; ada wire 2 closed; ada ended 1 unknown";
    for between in [
        "ada wire 1 closed",
        "ada wire 1 < 9 cut",
        "ada wire 1 < * /bye last=9; ada wire 1 closed",
        "ada wire 3 < * /bye last=8; ada wire 3 closed; ada wire 1 closed",
        "ada wire 1 < * /bye last=8; s1 started 1; s1 finished 1; ada wire 1 < 9 ok",
    ] {
        breaks(Rule::Proof, &format!("{first}; {between}; {again}; ada wire 1 closed"));
    }
}

#[test]
fn a_call_with_an_idempotency_key_may_be_resent() {
    holds(
        "ada called 1 key=k; ada wire 1 > 9 call 1; s1 started 1; ada wire 1 closed
         ada wire 2 > 4 call 1; ada wire 2 < 4 cut; s1 finished 1; ada ended 1 unknown",
    );
}

#[test]
fn a_reply_before_the_end_of_its_handler_is_found() {
    let run = "ada called 1; ada wire 1 > 1 call 1; s1 started 1";
    for word in ["ok", "err", "cut"] {
        let answer = format!("ada wire 1 < 1 {word}; s1 finished 1; ada ended 1 unknown");
        breaks(Rule::Terminals, &format!("{run}; {answer}"));
    }
    let more = "ada wire 1 < 1 more; s1 finished 1; ada wire 1 < 1 ok; ada ended 1 ok names=1";
    holds(&format!("{run}; {more}"));
}

#[test]
fn a_reply_before_the_start_of_its_handler_is_found() {
    let sent = "ada called 1; ada wire 1 > 1 call 1";
    let late = "s1 started 1; s1 finished 1; ada ended 1 unknown";
    for word in ["ok", "err"] {
        breaks(Rule::Terminals, &format!("{sent}; ada wire 1 < 1 {word}; {late}"));
    }
    holds(&format!("{sent}; ada wire 1 < 1 cut; ada ended 1 unknown"));
}

#[test]
fn a_refusal_of_a_started_call_is_found() {
    breaks(
        Rule::Terminals,
        "ada called 1; ada wire 1 > 1 call 1; s1 started 1; s1 finished 1; ada wire 1 < 1 no
         ada ended 1 unknown",
    );
}

// What subscribers say.

const PUBLISHED: &str =
    "ada publishing t a; ada publishing t b; ada publishing t c; ada subscribed 1 t e:1";

/// Behind a subscription from e:1.
fn given(rule: Option<Rule>, events: &str) {
    let text = format!("{PUBLISHED}; {events}");
    match rule {
        Some(rule) => breaks(rule, &text),
        None => holds(&text),
    }
}

#[test]
fn a_subscription_gets_consecutive_numbers() {
    given(None, "ada delivered 1 e:1 a; ada missed 1 e:2-4 lagged; ada delivered 1 e:5 b");
    given(None, "ada delivered 1 e:1 a; ada over 1 e:2");
    given(None, "ada missed 1 e:1-1 lagged; ada left 1");
    given(None, "ada reset 1 f:1; ada delivered 1 f:1 a; ada reset 1 g:1; ada over 1 g:1");
    // Each has its own, at each process.
    given(
        None,
        "ada subscribed 2 t e:2; bob subscribed 1 t e:2; ada delivered 1 e:1 a; bob delivered 1 e:2 b
         ada delivered 2 e:2 b; ada delivered 1 e:2 b",
    );
}

#[test]
fn a_missing_number_is_found() {
    given(Some(Rule::Subscriptions), "ada delivered 1 e:2 a");
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada delivered 1 e:3 b");
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada missed 1 e:3-4 lagged");
    given(Some(Rule::Subscriptions), "ada missed 1 e:1-2 lagged; ada delivered 1 e:4 a");
    given(Some(Rule::Subscriptions), "ada reset 1 f:1; ada delivered 1 f:2 a");
    given(Some(Rule::Subscriptions), "ada reset 1 f:2; ada delivered 1 f:2 a");
}

#[test]
fn a_repetition_is_found() {
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada delivered 1 e:1 a");
    given(Some(Rule::Subscriptions), "ada missed 1 e:1-2 lagged; ada delivered 1 e:2 a");
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada missed 1 e:1-2 lagged");
    given(Some(Rule::Subscriptions), "ada missed 1 e:1-0 lagged");
}

#[test]
fn another_epoch_without_a_reset_is_found() {
    given(Some(Rule::Subscriptions), "ada delivered 1 f:1 a");
    given(Some(Rule::Subscriptions), "ada missed 1 f:1-1 lagged");
    given(Some(Rule::Subscriptions), "ada reset 1 f:1; ada delivered 1 e:1 a");
}

#[test]
fn a_return_to_an_epoch_continues_at_its_last_position() {
    let left = "ada delivered 1 e:1 a; ada reset 1 f:1";
    given(None, &format!("{left}; ada reset 1 e:2; ada delivered 1 e:2 b; ada reset 1 f:1"));
    given(None, &format!("{left}; ada reset 1 g:1; ada reset 1 e:2; ada missed 1 e:2-3 lagged"));
    for next in ["e:1", "e:3", "f:1", "g:2"] {
        given(Some(Rule::Subscriptions), &format!("{left}; ada reset 1 {next}"));
    }
    given(Some(Rule::Subscriptions), "ada reset 1 e:1");
    // Each time it counts where it was left last.
    let again = format!("{left}; ada reset 1 e:2; ada delivered 1 e:2 b; ada reset 1 f:1");
    given(None, &format!("{again}; ada reset 1 e:3"));
    given(Some(Rule::Subscriptions), &format!("{again}; ada reset 1 e:2"));
    // Another subscription of the same process has seen nothing of it.
    let another = format!("{left}; ada subscribed 2 t f:1");
    given(None, &format!("{another}; ada reset 2 e:1; ada delivered 2 e:1 a"));
    given(Some(Rule::Subscriptions), &format!("{another}; ada reset 2 e:2"));
}

#[test]
fn an_end_at_another_position_is_found() {
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada over 1 e:1");
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada over 1 e:3");
    given(Some(Rule::Subscriptions), "ada over 1 f:1");
}

#[test]
fn a_delivery_after_an_end_is_found() {
    for end in ["over 1 e:2", "left 1"] {
        for event in [
            "delivered 1 e:2 b",
            "missed 1 e:2-2 lagged",
            "reset 1 f:1",
            "over 1 e:2",
            "left 1",
            "subscribed 1 t e:2",
        ] {
            let events = format!("ada delivered 1 e:1 a; ada {end}; ada {event}");
            given(Some(Rule::Subscriptions), &events);
        }
    }
}

#[test]
fn a_delivery_without_a_subscription_is_found() {
    given(Some(Rule::Subscriptions), "ada delivered 2 e:1 a");
    given(Some(Rule::Subscriptions), "ada left 2");
    given(Some(Rule::Subscriptions), "ada subscribed 1 t e:1");
}

#[test]
fn a_seen_position_was_handed_over_or_has_ended() {
    given(None, "ada delivered 1 e:1 a; ada seen 1 e:1");
    given(None, "ada missed 1 e:1-3 lagged; ada seen 1 e:3");
    given(None, "ada reset 1 f:1; ada seen 1 e:9");
    given(None, "ada over 1 e:1; ada seen 1 e:9");
    given(Some(Rule::Subscriptions), "ada reset 1 f:1; ada reset 1 e:1; ada seen 1 e:9");
    given(Some(Rule::Subscriptions), "ada seen 1 e:1; ada delivered 1 e:1 a");
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada seen 1 e:2");
    given(Some(Rule::Subscriptions), "ada delivered 1 e:1 a; ada seen 1 f:1");
}

// Messages.

#[test]
fn one_number_for_two_messages_is_found() {
    let both = "ada delivered 1 e:1 a; bob subscribed 1 t e:1";
    given(None, &format!("{both}; bob delivered 1 e:1 a"));
    let two = "ada subscribed 2 t e:1; ada delivered 1 e:1 a; ada delivered 2 e:1 b";
    given(Some(Rule::Messages), two);
    given(Some(Rule::Messages), "ada delivered 1 e:1 a; ada published t e:1 b");
    given(Some(Rule::Messages), "ada published t e:1 a; ada delivered 1 e:1 b");
    given(Some(Rule::Messages), "ada published t e:1 a; ada published t e:1 b; ada left 1");
    given(Some(Rule::Messages), "ada published t e:1 a; ada published t e:1 a; ada left 1");
    // The same number of another topic.
    given(None, "ada publishing u b; ada published u e:1 b; ada delivered 1 e:1 a");
}

#[test]
fn a_duplicated_message_is_found() {
    let twice = "ada delivered 1 e:1 a; ada delivered 1 e:2 a";
    given(Some(Rule::Publishes), twice);
    given(None, &format!("{twice}; ada publishing t a"));
    given(Some(Rule::Publishes), &format!("{twice}; ada publishing t a; ada unpublished t a"));
    given(Some(Rule::Publishes), "ada delivered 1 e:1 nobodys");
    given(Some(Rule::Publishes), "ada unpublished t a; ada delivered 1 e:1 a");
    given(Some(Rule::Publishes), "ada publishing u d; ada delivered 1 e:1 d");
    given(None, "ada unpublished t a");
}

#[test]
fn a_missing_confirmed_message_is_found() {
    given(Some(Rule::Confirmed), "bob published t e:1 a");
    given(Some(Rule::Confirmed), "ada delivered 1 e:1 a; bob published t e:2 b; s1 quiet");
    given(Some(Rule::Confirmed), "bob published t f:1 a; ada reset 1 f:1");
    given(Some(Rule::Confirmed), "bob published t e:1 a; s1 quiet; ada delivered 1 e:1 a");
    given(Some(Rule::Confirmed), "bob published t e:1 a; s1 quiet; ada left 1");
}

#[test]
fn a_confirmed_message_may_be_missed_with_a_reason() {
    for reason in ["missed 1 e:1-1 lagged", "reset 1 f:1", "over 1 e:1", "left 1"] {
        given(None, &format!("bob published t e:1 a; ada {reason}; s1 quiet"));
    }
    given(None, "s1 quiet; bob published t e:1 a");
    given(None, "bob publishing u d; bob published u e:1 d; bob published t f:1 a");
    holds("bob publishing t a; ada subscribed 1 t e:2; bob published t e:1 a");
}

#[test]
fn a_subscription_that_does_not_reach_the_head_is_found() {
    let come = "ada delivered 1 e:1 a";
    given(None, &format!("{come}; s1 head t e:2; s1 quiet"));
    given(None, &format!("{come}; s1 head t f:1; s2 head t e:2; s3 head t g:5; s1 quiet"));
    given(None, &format!("{come}; s1 head t e:1; s1 head t e:2; s1 quiet"));
    given(None, &format!("{come}; s1 head u e:9; s1 quiet"));
    given(None, &format!("{come}; ada left 1; s1 head t f:1; s1 quiet"));
    given(Some(Rule::CaughtUp), &format!("{come}; s1 head t e:3; s1 quiet"));
    given(Some(Rule::CaughtUp), &format!("{come}; s1 head t e:1; s1 quiet"));
    given(Some(Rule::CaughtUp), &format!("{come}; s1 head t f:2; s2 head t g:2; s1 quiet"));
    given(Some(Rule::CaughtUp), &format!("{come}; s1 head t e:2; s1 head t f:1; s1 quiet"));
}

// Drops.

#[test]
fn a_gap_that_the_server_did_not_send_is_found() {
    given(None, "s1 dropped ada 1 t e:1-4; ada missed 1 e:1-4 server");
    given(
        None,
        "s1 dropped ada 1 t e:3-9; s1 dropped ada 2 t e:1-2; ada missed 1 e:1-4 server
                 ada missed 1 e:5-9 server",
    );
    given(Some(Rule::Drops), "ada missed 1 e:1-4 server");
    given(Some(Rule::Drops), "s1 dropped ada 1 t e:1-3; ada missed 1 e:1-4 server");
    given(Some(Rule::Drops), "s1 dropped bob 1 t e:1-4; ada missed 1 e:1-4 server");
    given(Some(Rule::Drops), "s1 dropped ada 1 u e:1-4; ada missed 1 e:1-4 server");
    given(Some(Rule::Drops), "s1 dropped ada 1 t f:1-4; ada missed 1 e:1-4 server");
    given(Some(Rule::Drops), "ada missed 1 e:1-4 server; ada left 1");
}

#[test]
fn messages_undelivered_at_the_end_of_a_drain_are_reported() {
    let end = "ada wire 1 > 1 /subscribe t; ada wire 1 < 1 ok; ada wire 1 < * /end t e:1-4";
    given(None, &format!("{end}; ada missed 1 e:1-4 server; ada reset 1 f:1"));
    given(None, &format!("{end}; ada delivered 1 e:1 a"));
    given(Some(Rule::Drops), &format!("{end}; ada missed 1 e:1-5 server"));
    given(Some(Rule::Drops), &format!("{end}; ada missed 1 e:1-4 lost"));
    // A subscription that begins behind it may ask for numbers that passed before.
    let end = "ada wire 1 > 1 /subscribe t; ada wire 1 < 1 ok; ada wire 1 < * /end t e:3-4";
    given(Some(Rule::Drops), &format!("{end}; ada missed 1 e:1-4 server"));
    given(None, &format!("{end}; ada left 1; ada subscribed 2 t e:2; ada missed 2 e:2-4 server"));
}

#[test]
fn a_silent_loss_is_found() {
    given(Some(Rule::Drops), "ada missed 1 e:1-4 lost");
    given(Some(Rule::Drops), "s1 dropped ada 1 t e:1-4; ada missed 1 e:1-4 lost");
}

#[test]
fn a_gap_not_passed_to_the_application_is_found() {
    let named = "ada wire 1 > 1 /subscribe t; ada wire 1 < 1 ok; ada wire 1 < * /gap t e:1-2";
    given(None, &format!("{named}; ada missed 1 e:1-2 server"));
    given(None, &format!("{named}; ada missed 1 e:1-3 lagged"));
    given(Some(Rule::Drops), named);
    given(Some(Rule::Drops), &format!("{named}; ada missed 1 e:1-1 server"));
    given(Some(Rule::Drops), &format!("{named}; ada delivered 1 e:1 a; ada delivered 1 e:2 b"));
    // The subscriber had left, or the line may have been lost.
    given(None, &format!("{named}; ada wire 1 closed; ada delivered 1 e:1 a"));
    given(None, &format!("{named}; ada left 1"));
    given(None, &format!("{named}; ada reset 1 f:1"));
    given(None, &format!("ada left 1; {named}; ada subscribed 2 t e:1"));
    given(None, "ada left 1; ada subscribed 2 t e:3; s1 dropped ada 1 t e:1-2");
    given(Some(Rule::Drops), "ada reset 1 f:1; ada dropped ada 1 t f:1-2");
    let reset = "ada subscribed 1 t e:5; ada reset 1 f:1; ada dropped ada 1 t f:1-2";
    breaks(Rule::Drops, reset);
    holds(&format!("{reset}; ada missed 1 f:1-2 server"));
    given(Some(Rule::Drops), "ada left 1; ada subscribed 2 t e:2; ada dropped ada 1 t e:1-2");
}

// The order on a connection.

#[test]
fn non_increasing_ids_are_found() {
    holds(
        "ada wire 1 > 3 other; ada wire 1 > 7 other; ada wire 2 > 3 other; ada wire 1 < 7 ok
           ada wire 2 < 3 ok; ada wire 1 < 3 no",
    );
    breaks(Rule::Order, "ada wire 1 > 3 other; ada wire 1 > 3 other; ada wire 1 < 3 ok");
    breaks(Rule::Order, "ada wire 1 > 3 other; ada wire 1 > 2 other; ada wire 1 closed");
}

#[test]
fn a_second_terminal_line_is_found() {
    for word in ["ok", "err", "no", "cut", "more"] {
        breaks(
            Rule::Order,
            &format!("ada wire 1 > 1 other; ada wire 1 < 1 ok; ada wire 1 < 1 {word}"),
        );
        breaks(
            Rule::Order,
            &format!("ada wire 1 > 1 other; ada wire 1 < 1 ok; ada wire 1 < 2 {word}"),
        );
    }
    holds("ada wire 1 > 1 other; ada wire 1 < 1 more; ada wire 1 < 1 more; ada wire 1 < 1 cut");
}

#[test]
fn a_request_without_a_terminal_line_is_found() {
    breaks(Rule::Order, "ada wire 1 > 1 other");
    breaks(Rule::Order, "ada wire 1 > 1 other; ada wire 1 < 1 more");
    breaks(Rule::Order, "ada wire 1 > 1 other; s1 quiet; ada wire 1 < 1 ok");
    holds("ada wire 1 > 1 other; ada wire 1 closed");
    holds("s1 quiet; ada wire 1 > 1 other");
}

#[test]
fn a_line_after_the_close_is_found() {
    holds("ada wire 1 closed; ada wire 1 closed; ada wire 2 < * /bye last=0");
    breaks(Rule::Order, "ada wire 1 closed; ada wire 1 < * /bye last=0");
}

#[test]
fn a_topic_without_a_subscription_is_found() {
    let (asks, ok) = ("ada wire 1 > 1 /subscribe t", "ada wire 1 < 1 ok");
    let leaves = "ada wire 1 > 2 /unsubscribe t; ada wire 1 < 2 ok";
    for line in ["t 3", "/gap t e:3-4", "/reset t", "/end t"] {
        let line = format!("ada wire 1 < * {line}");
        holds(&format!("{asks}; {ok}; {line}"));
        holds(&format!("{asks}; {ok}; ada wire 1 > 2 /unsubscribe t; {line}; ada wire 1 < 2 ok"));
        breaks(Rule::Order, &line);
        breaks(Rule::Order, &format!("{asks}; {line}; {ok}"));
        breaks(Rule::Order, &format!("{asks}; ada wire 1 < 1 no; {line}"));
        breaks(Rule::Order, &format!("{asks}; {ok}; {leaves}; {line}"));
        breaks(Rule::Order, &format!("{asks}; {ok}; ada wire 1 < * /end t; {line}"));
        breaks(Rule::Order, &format!("ada wire 1 > 1 /subscribe u; {ok}; {line}"));
        breaks(Rule::Order, &format!("ada wire 2 > 1 /subscribe t; ada wire 2 < 1 ok; {line}"));
    }
}

#[test]
fn non_increasing_numbers_are_found() {
    let listens = "ada wire 1 > 1 /subscribe t; ada wire 1 < 1 ok; ada wire 1 < * t 3";
    holds(&format!(
        "{listens}; ada wire 1 < * t 5; ada wire 1 < * /gap t e:6-7; ada wire 1 < * t 8"
    ));
    holds(&format!("{listens}; ada wire 1 < * /reset t; ada wire 1 < * t 1"));
    holds(&format!(
        "{listens}; ada wire 1 < * /end t; ada wire 1 > 2 /subscribe t; ada wire 1 < 2 ok
         ada wire 1 < * t 3"
    ));
    breaks(Rule::Order, &format!("{listens}; ada wire 1 < * t 3"));
    breaks(Rule::Order, &format!("{listens}; ada wire 1 < * t 2"));
    breaks(Rule::Order, &format!("{listens}; ada wire 1 < * /gap t e:3-4"));
    breaks(Rule::Order, &format!("{listens}; ada wire 1 < * /gap t e:5-4"));
    breaks(Rule::Order, &format!("{listens}; ada wire 1 < * /gap t e:4-6; ada wire 1 < * t 6"));
}

// How faults are shown.

#[test]
fn a_history_log_has_one_line_per_event() {
    let history = planted(RUN);
    let lines: Vec<_> = lines(RUN).enumerate().map(|(at, line)| format!("{at} {line}\n")).collect();
    assert_eq!(history.render(), lines.concat());
    let mut history = History::default();
    history.record(7, "ada", Event::Note("two\nlines".to_owned()));
    let payload = "a\nb".to_owned();
    history.record(8, "bob", Event::Publishing { topic: "t".to_owned(), payload });
    assert_eq!(history.render(), "7 ada note two\\nlines\n8 bob publishing t a\\nb\n");
}

/// Expects this text for the fault.
fn told(text: &str, expected: &str) {
    let broken: Vec<_> = planted(text).check().iter().map(Broken::to_string).collect();
    assert_eq!(broken, [expected]);
}

#[test]
fn a_violation_names_the_rule_the_process_and_the_events() {
    told(
        "s1 note a; ada called 7; s1 started 7; s2 started 7; ada ended 7 unknown",
        "starts: ada: call 7 was started more than once
    line 2: 1 ada called 7
    line 3: 2 s1 started 7
    line 4: 3 s2 started 7
    line 5: 4 ada ended 7 unknown",
    );
    told(
        "ada subscribed 1 t e:4; ada missed 1 e:4-5 lagged; ada seen 1 e:5; ada missed 1 e:7-8 lagged",
        "subscriptions: ada: subscription 1 is at e:7, and e:6 is next
    line 2: 1 ada missed 1 e:4-5 lagged
    line 4: 3 ada missed 1 e:7-8 lagged",
    );
    told(
        "bob publishing t a; bob published t e:1 a; bob published t e:1 a",
        "messages: bob: e:1 of t names two messages
    line 2: 1 bob published t e:1 a
    line 3: 2 bob published t e:1 a",
    );
    told(
        "bob publishing t a; bob published t e:1 a; bob published t e:2 a",
        "publishes: bob: a message is there 2 times; published 1 times, failed 0
    line 1: 0 bob publishing t a
    line 2: 1 bob published t e:1 a
    line 3: 2 bob published t e:2 a",
    );
}

#[test]
fn a_violation_explains_how_an_outcome_is_wrong() {
    for (text, what) in [
        ("ada called 1", "has no outcome"),
        ("ada given-up 1", "ended, and was not begun"),
        ("ada given-up 1; ada called 1", "ended before it was begun"),
        ("ada called 1; ada given-up 1; ada given-up 1", "has more than one outcome"),
        ("ada called 1; ada called 1; ada given-up 1", "was begun more than once"),
    ] {
        assert_eq!(planted(text).check()[0].what, format!("call 1 {what}"));
    }
}

#[test]
fn a_violation_lists_some_of_many_events() {
    let starts = "; s1 started 7".repeat(20);
    let broken = planted(&format!("ada called 7{starts}; ada ended 7 unknown")).check();
    let text = broken[0].to_string();
    assert_eq!((text.lines().count(), text.lines().last()), (12, Some("    and 12 more")));
}

#[test]
fn violations_are_reported_in_the_order_of_the_rules() {
    let text = "ada wire 1 > 1 other; ada left 9; ada called 2; ada called 1; s1 started 1";
    let broken = planted(text).check();
    let told: Vec<_> = broken.iter().map(|broken| (broken.rule, &broken.what[..])).collect();
    assert_eq!(
        told,
        [
            (Rule::Outcomes, "call 1 has no outcome"),
            (Rule::Outcomes, "call 2 has no outcome"),
            (Rule::Subscriptions, "subscription 9 was not begun"),
            (Rule::Order, "connection 1: this request has no terminal line"),
        ]
    );
}

#[test]
#[should_panic(expected = "1 broken, the first of them:\noutcomes: ada: call 1 has no outcome")]
fn must_hold_panics_on_a_bad_history() {
    holds("ada called 1");
}

#[test]
fn confirmed_messages_are_checked_at_the_last_quiet() {
    given(Some(Rule::Confirmed), "s1 quiet; bob published t e:1 a; s1 quiet");
    given(None, "bob published t e:1 a; s1 quiet; ada delivered 1 e:1 a; s1 quiet");
}

// Sets of numbers.

/// The numbers 0 to 5 whose bits are set.
fn of_bits(bits: u64) -> Numbers {
    (0..6).filter(|n| bits >> n & 1 == 1).map(|n| (n, n)).collect()
}

#[test]
fn ranges_are_merged() {
    let set = |ranges: &[(u64, u64)]| ranges.iter().copied().collect::<Numbers>();
    assert_eq!(set(&[(5, 6), (1, 2), (3, 3), (9, 8)]).to_string(), "1-3, 5-6");
    assert_eq!(set(&[(1, 9), (2, 3), (2, u64::MAX)]), set(&[(1, u64::MAX)]));
    assert!(set(&[(2, 1)]).is_empty() && !set(&[(1, 1)]).is_empty());
}

#[test]
fn set_difference_removes_the_numbers_of_the_other() {
    for (one, other) in (0..64).flat_map(|one| (0..64).map(move |other| (one, other))) {
        assert_eq!(of_bits(one).without(&of_bits(other)), of_bits(one & !other));
    }
}

// Planting.

/// The events of a text, each with its process.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty())
}

fn planted(text: &str) -> History {
    let mut history = History::default();
    for (at, line) in (0..).zip(lines(text)) {
        let (process, event) = line.split_once(' ').expect("a process");
        let words: Vec<_> = event.split(' ').collect();
        let event = parse(&words).unwrap_or_else(|| panic!("no such event: {line}"));
        history.record(at, process, event);
    }
    history
}

fn holds(text: &str) {
    planted(text).assert_holds();
}

/// Expects that it breaks this rule, at ada, and no other.
fn breaks(rule: Rule, text: &str) {
    let broken = planted(text).check();
    let found: BTreeSet<_> = broken.iter().map(|broken| broken.rule).collect();
    assert_eq!(found, BTreeSet::from([rule]), "{text}: {broken:#?}");
    assert!(broken.iter().all(|broken| broken.process == "ada"), "{text}: {broken:#?}");
}

fn parse(words: &[&str]) -> Option<Event> {
    let event = match *words {
        ["called", call] => Event::Called { call: call.parse().ok()?, key: None },
        ["called", call, key] => {
            Event::Called { call: call.parse().ok()?, key: Some(key.strip_prefix("key=")?.into()) }
        }
        ["ended", call, ref how @ ..] => {
            Event::Ended { call: call.parse().ok()?, outcome: outcome(how)? }
        }
        ["given-up", call] => Event::GivenUp { call: call.parse().ok()? },
        ["started", call] => Event::Started { call: call.parse().ok()? },
        ["finished", call] => Event::Finished { call: call.parse().ok()? },
        ["told", one_way] => Event::Told { one_way: one_way.parse().ok()? },
        ["untold", one_way] => Event::Untold { one_way: one_way.parse().ok()? },
        ["heard", one_way] => Event::Heard { one_way: one_way.parse().ok()? },
        ["publishing", topic, payload] => {
            Event::Publishing { topic: topic.into(), payload: payload.into() }
        }
        ["published", topic, at, payload] => {
            Event::Published { topic: topic.into(), number: number(at)?, payload: payload.into() }
        }
        ["unpublished", topic, payload] => {
            Event::Unpublished { topic: topic.into(), payload: payload.into() }
        }
        ["head", topic, next] => Event::Head { topic: topic.into(), next: number(next)? },
        ["dropped", to, connection, topic, numbers] => Event::Dropped {
            to: to.into(),
            connection: connection.parse().ok()?,
            topic: topic.into(),
            span: span(numbers)?,
        },
        ["wire", connection, ref line @ ..] => {
            Event::Wire { connection: connection.parse().ok()?, line: wire(line)? }
        }
        ["quiet"] => Event::Quiet,
        ["note", text] => Event::Note(text.into()),
        [word, subscription, ref given @ ..] => {
            subscription_event(word, subscription.parse().ok()?, given)?
        }
        _ => return None,
    };
    Some(event)
}

fn subscription_event(word: &str, subscription: u64, given: &[&str]) -> Option<Event> {
    Some(match (word, given) {
        ("subscribed", [topic, from]) => {
            Event::Subscribed { subscription, topic: (*topic).into(), from: number(from)? }
        }
        ("delivered", [at, payload]) => {
            Event::Delivered { subscription, number: number(at)?, payload: (*payload).into() }
        }
        ("missed", [numbers, cause]) => {
            let cause = match *cause {
                "server" => Cause::Server,
                "lost" => Cause::Lost,
                "lagged" => Cause::Lagged,
                _ => return None,
            };
            Event::Missed { subscription, span: span(numbers)?, cause }
        }
        ("reset", [next]) => Event::Reset { subscription, next: number(next)? },
        ("over", [next]) => Event::Over { subscription, next: number(next)? },
        ("left", []) => Event::Left { subscription },
        ("seen", [at]) => Event::Seen { subscription, number: number(at)? },
        _ => return None,
    })
}

fn outcome(words: &[&str]) -> Option<Outcome> {
    Some(match *words {
        ["ok", names] => Outcome::Ok { names: names.strip_prefix("names=")?.parse().ok()? },
        ["remote"] => Outcome::Remote,
        ["refused"] => Outcome::Refused,
        ["not-sent"] => Outcome::NotSent,
        ["unknown"] => Outcome::Unknown,
        _ => return None,
    })
}

fn wire(words: &[&str]) -> Option<Line> {
    Some(match *words {
        [">", "*", "tell", one_way] => Line::OneWay { one_way: one_way.parse().ok()? },
        [">", id, ref asks @ ..] => Line::Request { id: id.parse().ok()?, asks: asked(asks)? },
        ["<", "*", "/gap", topic, numbers] => {
            Line::Gap { topic: topic.into(), span: span(numbers)? }
        }
        ["<", "*", "/reset", topic] => Line::Reset { topic: topic.into() },
        ["<", "*", "/end", topic] => Line::End { topic: topic.into(), undelivered: None },
        ["<", "*", "/end", topic, numbers] => {
            Line::End { topic: topic.into(), undelivered: Some(span(numbers)?) }
        }
        ["<", "*", "/bye", last] => Line::Bye { last: last.strip_prefix("last=")?.parse().ok()? },
        ["<", "*", topic, seq] => {
            Line::Notification { topic: topic.into(), seq: seq.parse().ok()? }
        }
        ["<", id, word] => Line::Reply { id: id.parse().ok()?, word: reply_word(word)? },
        ["closed"] => Line::Closed,
        _ => return None,
    })
}

fn asked(words: &[&str]) -> Option<Asked> {
    Some(match *words {
        ["call", call] => Asked::Call(call.parse().ok()?),
        ["/subscribe", topic] => Asked::Subscribe(topic.into()),
        ["/unsubscribe", topic] => Asked::Unsubscribe(topic.into()),
        ["other"] => Asked::Other,
        _ => return None,
    })
}

fn reply_word(word: &str) -> Option<Word> {
    let words = [Word::More, Word::Ok, Word::Err, Word::No, Word::Cut];
    words.into_iter().find(|known| known.to_string() == word)
}

fn number(text: &str) -> Option<Number> {
    let (epoch, seq) = text.split_once(':')?;
    Some(Number::new(epoch, seq.parse().ok()?))
}

fn span(text: &str) -> Option<Span> {
    let (epoch, numbers) = text.split_once(':')?;
    let (first, last) = numbers.split_once('-')?;
    Some(Span::new(epoch, first.parse().ok()?, last.parse().ok()?))
}

//! Mistakes in subscriptions and in what is made of numbers.

use super::{Mistake, break_off_if, id, keep, keep_if, lose, without, word, words};
use crate::{
    client_wrong::memory::{
        Lane::{self, Command, Event, ToClient, ToServer},
        Memory, attribute,
    },
    wire::number,
};

/// Whether an event is about this for a subscription, such as `gap`.
fn tells(line: &str, what: &str) -> bool {
    word(line) == what
}

/// An event about a topic.
fn told(memory: &Memory, topic: &str, what: &str) -> Option<(Lane, String)> {
    memory.tags.get(topic).map(|tag| (Event, format!("{tag} {what}")))
}

/// A line of the server about a topic, if it is one: the topic.
fn topic_of(line: &str) -> Option<&str> {
    match words(line)[..] {
        ["*", "/gap" | "/reset" | "/end", topic, ..] => Some(topic),
        ["*", topic, seq, ..] if number(seq).is_some() && !topic.starts_with('/') => Some(topic),
        _ => None,
    }
}

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "loses-first-notifications",
        about: "does not hand over the first notification of a topic",
        lanes: &[Event],
        make: |memory, lane, line| {
            if tells(&line, "message") && !memory.flag {
                memory.flag = true;
                return lose();
            }
            keep(lane, line)
        },
    },
    Mistake {
        name: "reserves-words-for-replies",
        about: "closes at a topic that is called like a word",
        lanes: &[ToClient],
        make: |_, lane, line| break_off_if(line.starts_with("* ok "), lane, line),
    },
    Mistake {
        name: "counts-in-32-bits",
        about: "closes at a number that needs more than 32 bits",
        lanes: &[ToClient],
        make: |_, lane, line| break_off_if(line.contains("90071992547409"), lane, line),
    },
    Mistake {
        name: "mixes-topics",
        about: "takes the number of one topic for that of another",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replacen("* blue ", "* red ", 1)),
    },
    Mistake {
        name: "delivers-all-numbers",
        about: "hands over each notification that it reads, whatever its number",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_one = topic_of(&line).is_some_and(|_| !line.starts_with("* /"));
            match words(&line)[..] {
                ["*", topic, seq, ..] if is_one && memory.is_useless => {
                    let payload = line.splitn(4, ' ').nth(3).unwrap_or_default();
                    let what = format!("message {seq} {payload}");
                    told(memory, topic, &what).into_iter().collect()
                }
                _ => keep(lane, line),
            }
        },
    },
    Mistake {
        name: "tells-no-hole",
        about: "does not tell of a hole that it finds",
        lanes: &[Event],
        make: |_, lane, line| {
            let is_hole = tells(&line, "gap") && !line.ends_with(" retention");
            keep_if(!is_hole, lane, line)
        },
    },
    Mistake {
        name: "tells-no-gap",
        about: "does not tell of a /gap",
        lanes: &[Event],
        make: |_, lane, line| keep_if(!tells(&line, "gap"), lane, line),
    },
    Mistake {
        name: "tells-gaps-as-they-come",
        about: "tells of each /gap as it stands, whatever is expected",
        lanes: &[ToClient],
        make: |memory, lane, line| match words(&line)[..] {
            ["*", "/gap", topic, _, first, last, reason, ..] => {
                told(memory, topic, &format!("gap {first} {last} {reason}")).into_iter().collect()
            }
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "ignores-epochs",
        about: "takes a number of another epoch for one of its own",
        lanes: &[ToClient],
        make: |_, lane, line| {
            keep(lane, line.replace("/gap offers f ", "/gap offers e ").replace(":f:40", ":e:40"))
        },
    },
    Mistake {
        name: "tells-no-reset",
        about: "does not tell of another epoch",
        lanes: &[Event],
        make: |_, lane, line| keep_if(!tells(&line, "reset"), lane, line),
    },
    Mistake {
        name: "tells-resets-as-they-come",
        about: "tells of each /reset, whatever its epoch",
        lanes: &[ToClient],
        make: |memory, lane, line| match words(&line)[..] {
            ["*", "/reset", topic, at, ..] => {
                told(memory, topic, &format!("reset {at}")).into_iter().collect()
            }
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "closes-at-strange-topics",
        about: "closes at a line about a topic that it is not subscribed to",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_strange = topic_of(&line).is_some_and(|topic| !memory.tags.contains_key(topic));
            break_off_if(is_strange, lane, line)
        },
    },
    Mistake {
        name: "tells-no-end",
        about: "does not tell of the end of a subscription",
        lanes: &[Event],
        make: |_, lane, line| keep_if(!tells(&line, "ended"), lane, line),
    },
    Mistake {
        name: "believes-ends",
        about: "takes the position of an /end for its own",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, line.replace("ended revoked e:19", "ended revoked e:30")),
    },
    Mistake {
        name: "resumes-always",
        about: "resumes a subscription whatever it ended for",
        lanes: &[ToClient],
        make: |_, lane, line| {
            let line = line.replace(" never-heard-of e:", " expired e:");
            keep(lane, line.replace(" slow e:", " expired e:"))
        },
    },
    Mistake {
        name: "closes-at-not-subscribed",
        about: "closes at a not-subscribed",
        lanes: &[ToClient],
        make: |_, lane, line| break_off_if(line.contains(" not-subscribed"), lane, line),
    },
    Mistake {
        name: "takes-any-ok",
        about: "goes on at an ok that does not say where a subscription begins",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_ok = id(&line).is_some_and(|id| memory.topic_of(id).is_some());
            let next = attribute(&line, "next").and_then(|next| number(&next));
            let is_whole = attribute(&line, "epoch").is_some() && next.is_some();
            keep_if(!is_ok || is_whole, lane, line)
        },
    },
    Mistake {
        name: "asks-one-too-far",
        about: "asks for the number behind the one that it expects",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line.replace(";from=k3f9:18", ";from=k3f9:19")),
    },
    Mistake {
        name: "stops-reading",
        about: "stops reading while its application is slow",
        lanes: &[Command, ToClient],
        make: |memory, lane, line| {
            memory.flag |= lane == Command && line.starts_with("pause");
            keep_if(lane == Command || !memory.flag, lane, line)
        },
    },
    Mistake {
        name: "stops-reading-when-blocked",
        about: "stops reading while it has much to write",
        lanes: &[ToClient],
        make: |memory, lane, line| keep_if(memory.bytes_to_server < 50_000, lane, line),
    },
    Mistake {
        name: "never-renews",
        about: "sends no /renew",
        lanes: &[ToServer],
        make: |_, lane, line| keep_if(word(&line) != "/renew", lane, line),
    },
    Mistake {
        name: "ignores-renewals",
        about: "ignores what the reply to a /renew lists",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_reply = id(&line)
                .and_then(|id| memory.pending.get(&id))
                .is_some_and(|request| request.starts_with("/renew"));
            keep_if(!is_reply, lane, line)
        },
    },
    Mistake {
        name: "forgets-to-resume",
        about: "does not subscribe again to what has ended",
        lanes: &[ToServer],
        make: |memory, lane, line| {
            let is_again = word(&line) == "/subscribe" && memory.flag;
            memory.flag |= word(&line) == "/subscribe";
            keep_if(!is_again, lane, line)
        },
    },
    Mistake {
        name: "resumes-from-ends",
        about: "resumes from the position of the /end instead of its own",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line.replace(";from=e:18", ";from=e:30")),
    },
    Mistake {
        name: "gives-up-when-busy",
        about: "takes a busy for a refusal for good",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replace(" no busy", " no forbidden")),
    },
    Mistake {
        name: "ignores-hints",
        about: "does not wait for the time of a retry",
        lanes: &[ToClient],
        make: |_, lane, line| match line.contains(";retry=") {
            true => keep(lane, without(&line, "retry").replace(" no ", " no;retry=1 ")),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "repeats-without-a-pause",
        about: "repeats a /subscribe at once, for ever",
        lanes: &[ToServer],
        make: |_, lane, line| match id(&line).filter(|_| line.contains("/subscribe;from")) {
            Some(own) => {
                let request = line.split_once(' ').map_or("", |(_, request)| request).to_owned();
                (own..own + 40).map(|id| (lane, format!("{id} {request}"))).collect()
            }
            None => keep(lane, line),
        },
    },
];

//! Mistakes in lines: their form, their length, their stuffing, and the hello.

use super::{Mistake, break_off_if, keep, keep_if, lose, with_payload, word, words};
use crate::{
    client_wrong::memory::Lane::{Event, Open, Part, ToClient, ToServer},
    wire::{self, is_code, is_epoch, number, position},
};

const HELLO: &str = "* /hello;version=1;max-line=65535;in-flight=1024;lease=60";

pub(super) const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "keeps-the-sp",
        about: "takes the SP of an empty rest for a payload",
        lanes: &[ToClient],
        make: |_, lane, line| match line.ends_with(" ok ") {
            true => keep(lane, line + " "),
            false => keep(lane, line),
        },
    },
    Mistake {
        name: "rejects-empty-texts",
        about: "closes at a SP with no text behind it",
        lanes: &[ToClient],
        make: |_, lane, line| break_off_if(line.ends_with(' '), lane, line),
    },
    Mistake {
        name: "writes-the-sp",
        about: "writes the SP of an empty rest",
        lanes: &[ToServer],
        make: |_, lane, line| match words(&line).len() {
            2 => keep(lane, line + " "),
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "writes-crlf",
        about: "ends its lines with CR LF",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line + "\r"),
    },
    Mistake {
        name: "trims-payloads",
        about: "trims what it reads",
        lanes: &[Event],
        make: |_, _, line| with_payload(line, |payload| payload.trim().to_owned()),
    },
    Mistake {
        name: "trims-requests",
        about: "trims what it writes",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line.trim_end().replace("  ", " ")),
    },
    Mistake {
        name: "stuffs-in-lower-case",
        about: "stuffs with small letters",
        lanes: &[ToServer],
        make: |_, lane, line| {
            let line = line.replace("\x10J", "\x10j").replace("\x10P", "\x10p");
            keep(lane, line.replace("\x10M", "\x10m"))
        },
    },
    Mistake {
        name: "loses-control-bytes",
        about: "does not send the control bytes of a payload",
        lanes: &[ToServer],
        make: |_, lane, line| {
            keep(lane, line.chars().filter(|&one| one >= ' ' || one == '\x10').collect())
        },
    },
    Mistake {
        name: "stuffs-letters",
        about: "stuffs the letters of the pairs",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line.replace("JMP", "\x10J\x10M\x10P")),
    },
    Mistake {
        name: "unstuffs-nothing",
        about: "hands payloads over as they travel",
        lanes: &[Event],
        make: |_, _, line| {
            with_payload(line, |payload| {
                payload.replace('\x10', "\x10P").replace('\n', "\x10J").replace('\r', "\x10M")
            })
        },
    },
    Mistake {
        name: "unstuffs-twice",
        about: "unstuffs what was unstuffed",
        lanes: &[Event],
        make: |_, _, line| {
            with_payload(line, |payload| {
                payload.replace("\x10J", "\n").replace("\x10M", "\r").replace("\x10P", "\x10")
            })
        },
    },
    Mistake {
        name: "splits-at-other-ends",
        about: "takes other characters than LF for the end of a line",
        lanes: &[Event],
        make: |_, _, line| {
            with_payload(line, |payload| {
                payload.split(['\x0b', '\x0c', '\x1c']).next().unwrap_or_default().to_owned()
            })
        },
    },
    Mistake {
        name: "reads-utf8-only",
        about: "replaces bytes that are not UTF-8",
        lanes: &[Event],
        make: |_, _, line| {
            with_payload(line, |payload| {
                payload.chars().map(|one| if one > '\x7f' { '?' } else { one }).collect()
            })
        },
    },
    Mistake {
        name: "reads-short-lines",
        about: "cuts lines at 8 KiB",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.chars().take(8_192).collect()),
    },
    Mistake {
        name: "cuts-long-requests",
        about: "cuts requests at 1 KiB",
        lanes: &[ToServer],
        make: |_, lane, line| keep(lane, line.chars().take(1_024).collect()),
    },
    Mistake {
        name: "ignores-max-line",
        about: "sends lines that are longer than the server reads",
        lanes: &[ToClient],
        make: |_, lane, line| keep(lane, line.replace("max-line=1024", "max-line=65535")),
    },
    Mistake {
        name: "keeps-its-limit-to-itself",
        about: "does not tell the server its own max-line",
        lanes: &[ToServer],
        make: |_, lane, line| match word(&line) {
            "/hello" => {
                let id = words(&line)[0].to_owned();
                vec![(ToClient, format!("{id} ok;version=1"))]
            }
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "drops-long-lines",
        about: "drops a line that is too long, and goes on",
        lanes: &[ToClient],
        make: |_, lane, line| keep_if(line.len() < 2_000, lane, line),
    },
    Mistake {
        name: "reads-for-ever",
        about: "reads a line without an end for ever",
        lanes: &[Part],
        make: |_, _, _| lose(),
    },
    Mistake {
        name: "reads-over-malformed-lines",
        about: "drops a malformed line, and goes on",
        lanes: &[ToClient],
        make: |_, lane, line| keep_if(is_well_formed(&line), lane, line),
    },
    Mistake {
        name: "accepts-any-hello",
        about: "takes whatever comes first for a right hello",
        lanes: &[ToClient],
        make: |memory, lane, line| match memory.lines_to_client {
            1 => keep(lane, HELLO.to_owned()),
            _ => keep(lane, line),
        },
    },
    Mistake {
        name: "speaks-first",
        about: "does not wait for the hello",
        lanes: &[Open, ToClient],
        make: |memory, lane, line| match lane {
            Open => keep(ToClient, HELLO.to_owned()),
            _ => keep_if(memory.lines_to_client > 1, lane, line),
        },
    },
    Mistake {
        name: "needs-all-limits",
        about: "closes at a hello that leaves a limit out",
        lanes: &[ToClient],
        make: |_, lane, line| {
            let is_bare = line.starts_with("* /hello") && !line.contains(";in-flight=");
            break_off_if(is_bare, lane, line)
        },
    },
    Mistake {
        name: "rejects-unknown-attributes",
        about: "closes at an attribute that it does not know",
        lanes: &[ToClient],
        make: |_, lane, line| break_off_if(line.contains(";new="), lane, line),
    },
    Mistake {
        name: "rejects-unknown-notices",
        about: "closes at a notice that it does not know, or knows less of",
        lanes: &[ToClient],
        make: |_, lane, line| {
            let is_unknown = line.starts_with("* /weather") || line.contains(" and more");
            break_off_if(is_unknown, lane, line)
        },
    },
    Mistake {
        name: "rejects-early-notices",
        about: "closes at a notice before its first request",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_early = memory.lines_to_client > 1 && memory.lines_to_server == 0;
            break_off_if(is_early, lane, line)
        },
    },
    Mistake {
        name: "obeys-a-second-hello",
        about: "judges a second hello like the first",
        lanes: &[ToClient],
        make: |memory, lane, line| {
            let is_second = memory.lines_to_client > 1 && line.starts_with("* /hello");
            break_off_if(is_second, lane, line)
        },
    },
    Mistake {
        name: "rejects-bad-hints",
        about: "closes at a hint of another form, which is to be treated as absent",
        lanes: &[ToClient],
        make: |_, lane, line| {
            let is_bad = line.contains(";retry=0") || line.contains(";after=x");
            break_off_if(is_bad, lane, line)
        },
    },
];

/// Whether a client has to read a line.
fn is_well_formed(line: &str) -> bool {
    let bytes: Vec<u8> = line.chars().map(|one| one as u32 as u8).collect();
    let Ok(parsed) = wire::parse(&bytes) else { return false };
    let rest = String::from_utf8_lossy(parsed.rest.as_deref().unwrap_or_default()).into_owned();
    let arguments: Vec<_> = rest.split(' ').collect();
    match (parsed.is_channel(), &parsed.word[..]) {
        (false, "ok" | "more") => true,
        (false, "err" | "no" | "cut") => is_code(arguments[0]),
        (false, _) => false,
        (true, "/gap") => match arguments[..] {
            [_, epoch, first, last, reason, ..] => {
                let range = number(first).zip(number(last));
                is_epoch(epoch) && range.is_some_and(|(a, b)| a <= b) && is_code(reason)
            }
            _ => false,
        },
        (true, "/reset") => arguments.get(1).is_some_and(|at| position(at).is_some()),
        (true, "/end") => arguments.get(2).is_some_and(|at| position(at).is_some()),
        (true, "/error") => is_code(arguments[0]),
        (true, "/bye") => {
            let is_number = |key| parsed.attribute(key).is_none_or(|value| number(value).is_some());
            let has_reason = is_code(arguments[0]) || parsed.attribute("last").is_none();
            is_number("retry") && has_reason
        }
        (true, word) if word.starts_with('/') => true,
        (true, _) => number(arguments[0]).is_some(),
    }
}

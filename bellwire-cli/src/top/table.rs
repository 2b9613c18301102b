//! The figures as lines of text, for the screen and for `--once`.

use std::fmt::Write;

use crate::{
    escape,
    top::data::{SessionFigures, TopicFigures, View},
};

pub(crate) const SESSIONS: [&str; 8] =
    ["client", "principal", "age", "slow for", "held", "unwritten", "in flight", "topics"];
pub(crate) const TOPICS: [&str; 5] = ["topic", "per s", "next", "retained", "subscribers"];

/// The lines about the whole server: each a name and its text.
pub(crate) fn summary(view: &View) -> [(&'static str, String); 4] {
    let (server, rates) = (&view.server, &view.rates);
    [
        (
            "connections",
            format!(
                "{} open, {} accepted, {} shed; longest lag {}",
                server.connections,
                server.accepted,
                server.shed,
                time(server.longest_lag_ms)
            ),
        ),
        (
            "requests",
            format!(
                "{:.0}/s; {} in flight; {} ok, {} err, {} no, {} cut",
                rates.requests, server.in_flight, server.ok, server.err, server.no, server.cut
            ),
        ),
        (
            "notifications",
            format!(
                "{:.0}/s; {} topics, {} subscriptions; {} gaps",
                rates.notifications, server.topics, server.subscriptions, server.gaps
            ),
        ),
        (
            "memory",
            format!(
                "{} of {} buffered, {} of {} retained; in {}/s, out {}/s",
                size(server.buffered_bytes),
                size(server.buffered_bytes_total),
                size(server.retained_bytes),
                size(server.retained_bytes_total),
                size(rates.bytes_in as u64),
                size(rates.bytes_out as u64)
            ),
        ),
    ]
}

pub(crate) fn session(session: &SessionFigures) -> [String; 8] {
    let slow = session.slow_ms();
    [
        escape::cut(session.peer.as_bytes(), 60),
        session.principal.as_ref().map_or("-".into(), |name| escape::cut(name.as_bytes(), 40)),
        time(session.connected_ms),
        if slow == 0 { "-".into() } else { time(slow) },
        size(session.held_bytes),
        size(session.unwritten_bytes),
        session.in_flight.to_string(),
        session.subscriptions.to_string(),
    ]
}

pub(crate) fn topic((topic, per_second): &(TopicFigures, f64)) -> [String; 5] {
    [
        escape::cut(topic.topic.as_bytes(), 60),
        format!("{per_second:.1}"),
        topic.next.to_string(),
        size(topic.retained_bytes),
        topic.subscribers.to_string(),
    ]
}

/// Everything as text.
pub(crate) fn text(view: &View) -> String {
    let mut text = String::new();
    for (name, line) in summary(view) {
        writeln!(text, "{name:14} {line}").expect(INFALLIBLE);
    }
    text.push('\n');
    let sessions: Vec<_> = view.sessions.iter().map(session).collect();
    table(&mut text, SESSIONS, &sessions);
    text.push('\n');
    let topics: Vec<_> = view.topics.iter().map(topic).collect();
    match view.server.lists_topics {
        true => table(&mut text, TOPICS, &topics),
        false => text.push_str("the topic store of this server does not list its topics\n"),
    }
    text
}

const INFALLIBLE: &str = "a String takes everything";

fn table<const N: usize>(text: &mut String, head: [&str; N], rows: &[[String; N]]) {
    let mut widths = head.map(|name| name.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in std::iter::once(head.map(str::to_owned)).chain(rows.iter().cloned()) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect(INFALLIBLE);
        }
        writeln!(text, "{}", line.trim_end()).expect(INFALLIBLE);
    }
}

/// Bytes in three digits: 12.3 MiB.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    while value >= 1_024.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1_024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// Milliseconds in the unit that fits: 250 ms, 12 s, 5 min, 3 h, 2 d.
fn time(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{millis} ms"),
        10_000..600_000 => format!("{} s", millis / 1_000),
        600_000..36_000_000 => format!("{} min", millis / 60_000),
        36_000_000..864_000_000 => format!("{} h", millis / 3_600_000),
        _ => format!("{} d", millis / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, expected) in
            [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (12_900_000, "12.3 MiB")]
        {
            assert_eq!(size(bytes), expected);
        }
        for (millis, expected) in [(0, "0 ms"), (12_345, "12 s"), (864_000_001, "10 d")] {
            assert_eq!(time(millis), expected);
        }
        assert!(size(u64::MAX).ends_with(" TiB"));
    }
}

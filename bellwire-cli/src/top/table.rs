//! The figures as lines of text, for the screen and for `--once`.

use std::fmt::Write;

use crate::{
    escape,
    top::data::{SessionFigures, TopicFigures, View},
};

/// A column, and how many characters it takes on the screen.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) width: u16,
    /// Of a narrow screen, the columns with the largest numbers are left out.
    rank: u8,
}

const fn column(name: &'static str, width: u16, rank: u8) -> Column {
    Column { name, width, rank }
}

pub(crate) const SESSIONS: [Column; 8] = [
    column("client", 22, 0),
    column("principal", 14, 3),
    column("age", 8, 6),
    column("slow for", 8, 1),
    column("held", 11, 2),
    column("unwritten", 11, 5),
    column("in flight", 9, 4),
    column("topics", 6, 7),
];
pub(crate) const TOPICS: [Column; 5] = [
    column("topic", 24, 0),
    column("per s", 10, 1),
    column("next", 12, 3),
    column("retained", 11, 4),
    column("subscribers", 11, 2),
];

/// The columns for which `width` is enough, with a space between them. The first one always is.
pub(crate) fn fitting<const N: usize>(columns: [Column; N], width: u16) -> Vec<usize> {
    let mut by_rank: Vec<usize> = (0..N).collect();
    by_rank.sort_by_key(|&at| columns[at].rank);
    let mut left = width.saturating_sub(columns[by_rank[0]].width);
    let mut shown = vec![by_rank[0]];
    for &at in &by_rank[1..] {
        let Some(rest) = left.checked_sub(columns[at].width + 1) else { break };
        left = rest;
        shown.push(at);
    }
    shown.sort_unstable();
    shown
}

/// The lines about the whole server: each a name and its figures.
fn summary(view: &View) -> [(&'static str, Vec<String>); 4] {
    let (server, rates) = (&view.server, &view.rates);
    let connections = vec![
        format!("{} open", server.connections),
        format!("{} accepted", server.accepted),
        format!("{} shed", server.shed),
        format!("longest lag {}", time(server.longest_lag_ms)),
    ];
    let requests = vec![
        format!("{:.0}/s", rates.requests),
        format!("{} in flight", server.in_flight),
        format!("{} ok, {} err, {} no, {} cut", server.ok, server.err, server.no, server.cut),
    ];
    let notifications = vec![
        format!("{:.0}/s", rates.notifications),
        format!("{} topics", server.topics),
        format!("{} subscriptions", server.subscriptions),
        format!("{} gaps", server.gaps),
    ];
    let of = |held, all, what| format!("{} of {} {what}", size(held), size(all));
    let memory = vec![
        of(server.buffered_bytes, server.buffered_bytes_total, "buffered"),
        of(server.retained_bytes, server.retained_bytes_total, "retained"),
    ];
    let memory = [
        memory,
        vec![
            format!("in {}/s", size(rates.bytes_in as u64)),
            format!("out {}/s", size(rates.bytes_out as u64)),
        ],
    ]
    .concat();
    [
        ("connections", connections),
        ("requests", requests),
        ("notifications", notifications),
        ("memory", memory),
    ]
}

/// The width of the names of the summary.
const NAMES: usize = 15;

/// The summary, in lines of at most `width` characters where the figures allow it.
pub(crate) fn lines(view: &View, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, figures) in summary(view) {
        let mut line = format!("{name:NAMES$}");
        let mut is_first = true;
        for figure in figures {
            if !is_first && line.len() + figure.len() + 2 > width {
                lines.push(std::mem::replace(&mut line, " ".repeat(2)));
            } else if !is_first {
                line.push_str("; ");
            }
            line.push_str(&figure);
            is_first = false;
        }
        lines.push(line);
    }
    lines
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
    for line in lines(view, usize::MAX) {
        writeln!(text, "{line}").expect(INFALLIBLE);
    }
    text.push('\n');
    let sessions: Vec<_> = view.sessions.iter().map(session).collect();
    table(&mut text, SESSIONS, &sessions);
    text.push('\n');
    let topics: Vec<_> = view.topics.iter().map(topic).collect();
    match view.hides_topics() {
        false => table(&mut text, TOPICS, &topics),
        true => text.push_str("the topic store of this server lists none of its topics\n"),
    }
    text
}

const INFALLIBLE: &str = "a String takes everything";

fn table<const N: usize>(text: &mut String, head: [Column; N], rows: &[[String; N]]) {
    let head = head.map(|column| column.name);
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

/// Milliseconds in the unit that fits: 250 ms, 1.5 s, 12 s, 5 min, 3 h, 2 d.
fn time(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..10_000 => format!("{:.1} s", millis as f64 / 1_000.0),
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
        for (millis, expected) in
            [(0, "0 ms"), (1_459, "1.5 s"), (12_345, "12 s"), (864_000_001, "10 d")]
        {
            assert_eq!(time(millis), expected);
        }
        assert!(size(u64::MAX).ends_with(" TiB"));
    }

    #[test]
    fn a_store_that_lists_no_topics_is_named() {
        let hides = |shown: &str| shown.contains("the topic store of this server lists none");
        let mut view = View::default();
        assert!(!hides(&text(&view)), "there are no topics");
        view.server.topics = 2;
        assert!(hides(&text(&view)));
        view.topics.push((TopicFigures::default(), 0.0));
        assert!(!hides(&text(&view)));
    }

    #[test]
    fn narrow_screens_leave_out_what_matters_least() {
        let names = |width| -> Vec<_> {
            fitting(SESSIONS, width).into_iter().map(|at| SESSIONS[at].name).collect()
        };
        assert_eq!(names(18), ["client"]);
        assert_eq!(names(31), ["client", "slow for"]);
        assert_eq!(names(43), ["client", "slow for", "held"]);
        assert_eq!(names(200).len(), 8);
    }

    #[test]
    fn long_lines_of_the_summary_are_broken() {
        let wide = lines(&View::default(), usize::MAX);
        assert_eq!(wide.len(), 4);
        assert!(wide[1].starts_with("requests       0/s; 0 in flight; 0 ok"), "{}", wide[1]);
        let narrow = lines(&View::default(), 40);
        assert!(narrow.len() > 4 && narrow.iter().all(|line| line.len() <= 40), "{narrow:?}");
    }
}

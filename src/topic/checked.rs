//! Checks what a store returns, once. After these checks all numbers and lines are valid.

use std::ops::RangeInclusive;

use memchr::memchr;

use crate::{
    protocol::{Line, MAX_NUMBER, Mark, Position, Topic, Window, parse_number},
    topic::{PublishError, Published, Read, Room, Unavailable},
};

type Checked = Result<(), Unavailable>;

/// Checks the window of a log for a subscription that stands at `at`; `None` if it begins.
pub(crate) fn check_window(window: Window, at: Option<Position>) -> Checked {
    let Window { epoch, first, next } = window;
    let has_fallen = at.is_some_and(|at| at.epoch == epoch && next < at.next);
    require((1..=next).contains(&first) && next <= MAX_NUMBER, "it returned an invalid number")?;
    require(!has_fallen, "its numbers fell")
}

/// Checks a reader's step from `at`, which appended `lines`. Lines of the default topics are not
/// parsed again, because this crate encoded them.
pub(crate) fn check_read(
    read: &Read,
    topic: &Topic,
    at: Position,
    room: Room,
    lines: &[u8],
    is_own: bool,
) -> Checked {
    match *read {
        Read::Copied { last } => {
            check_step(at, last)?;
            require(last - at.next < room.lines, "it returned more lines than allowed")?;
            match is_own {
                true => Ok(()),
                false => check_lines(topic, at.next..=last, room, lines),
            }
        }
        Read::Gap { last, .. } => {
            require(lines.is_empty(), "it returned lines with a gap")?;
            check_step(at, last)
        }
        Read::Reset(to) => {
            require(lines.is_empty(), "it returned lines with a reset")?;
            require(to.is_sendable(), "it returned an invalid number")?;
            require(to.epoch != at.epoch, "it resets to the same log")
        }
        Read::Closed => require(lines.is_empty(), "it returned lines with its end"),
    }
}

/// Checks the number that a store gave to a message. The message may have been appended even if the
/// number is invalid.
///
/// # Errors
/// The number is invalid.
pub(crate) fn checked_published(published: Published) -> Result<Published, PublishError> {
    let is_number = (1..=MAX_NUMBER).contains(&published.sequence);
    let checked = require(is_number, "it returned an invalid number");
    checked.map(|()| published).map_err(PublishError::Unavailable)
}

/// Checks the end of a log that a store closed.
///
/// # Errors
/// The position is invalid. The log may be closed nevertheless.
pub(crate) fn checked_end(end: Option<Position>) -> Result<Option<Position>, PublishError> {
    let checked = require(end.is_none_or(Position::is_sendable), "it returned an invalid number");
    checked.map(|()| end).map_err(PublishError::Unavailable)
}

/// Checks that a step moves the cursor to a valid number.
fn check_step(at: Position, last: u64) -> Checked {
    require(last >= at.next, "it did not move the cursor")?;
    require(last < MAX_NUMBER, "it returned an invalid number")
}

fn check_lines(topic: &Topic, numbers: RangeInclusive<u64>, room: Room, lines: &[u8]) -> Checked {
    let mut rest = lines;
    for number in numbers {
        let begins_within = rest.len() == lines.len() || lines.len() - rest.len() < room.bytes;
        require(begins_within, "it returned more bytes than allowed")?;
        let end =
            memchr(b'\n', rest).ok_or_else(|| wrong("it returned fewer lines than it says"))?;
        require(end < room.max_line, "it returned a line that is too long")?;
        let (line, behind) = rest.split_at(end);
        require(
            is_notification(line, topic, number),
            "it returned a line that is not the next one",
        )?;
        rest = behind.get(1..).unwrap_or_default();
    }
    require(rest.is_empty(), "it returned more lines than it says")
}

/// Whether a line, without its LF, is `* TOPIC NUMBER [payload]`.
fn is_notification(line: &[u8], topic: &Topic, number: u64) -> bool {
    let Ok(line) = Line::parse(line) else { return false };
    line.mark == Mark::Reserved
        && line.word.as_str() == topic.as_str()
        && line.attributes.is_empty()
        && parse_number(line.rest.split_argument().0) == Some(number)
}

fn require(is_right: bool, otherwise: &str) -> Checked {
    if is_right { Ok(()) } else { Err(wrong(otherwise)) }
}

fn wrong(what: &str) -> Unavailable {
    Unavailable(format!("wrong value: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"* t 5 x\n";
    const ROOM: Room = Room { bytes: 64, lines: 3, max_line: 64 };

    fn check(read: Read, room: Room, lines: &[u8]) -> bool {
        let (topic, at) = (Topic::new("t").unwrap(), "e:5".parse().unwrap());
        check_read(&read, &topic, at, room, lines, false).is_ok()
    }

    fn copied(last: u64, room: Room, lines: &[u8]) -> bool {
        check(Read::Copied { last }, room, lines)
    }

    /// Each limit of a step is exact to the byte, the line and the number.
    #[test]
    fn lines_stay_within_their_room() {
        assert!(copied(5, ROOM, LINE));
        assert!(copied(5, Room { max_line: LINE.len(), ..ROOM }, LINE));
        assert!(!copied(5, Room { max_line: LINE.len() - 1, ..ROOM }, LINE));
        let two = b"* t 5 x\n* t 6 x\n";
        assert!(copied(6, Room { lines: 2, ..ROOM }, two));
        assert!(!copied(6, Room { lines: 1, ..ROOM }, two));
        // A line may end behind the limit of bytes, but must not begin there.
        assert!(copied(6, Room { bytes: LINE.len() + 1, ..ROOM }, two));
        assert!(!copied(6, Room { bytes: LINE.len(), ..ROOM }, two));
        assert!(!copied(6, ROOM, LINE) && !copied(5, ROOM, two));
    }

    #[test]
    fn lines_are_the_next_notifications_of_their_topic() {
        for wrong in
            ["1 t 5 x\n", "* u 5 x\n", "* t 6 x\n", "* t;a=b 5 x\n", "* t 05 x\n", "* t\n", "\n"]
        {
            assert!(!copied(5, ROOM, wrong.as_bytes()), "{wrong:?}");
        }
        assert!(copied(5, ROOM, b"* t 5\n"));
    }

    #[test]
    fn steps_without_lines_are_validated() {
        let gap = |last| Read::Gap { last, reason: crate::protocol::Code::RETENTION };
        let reset = |to: &str| Read::Reset(to.parse().unwrap());
        for (read, is_right) in [
            (gap(5), true),
            (gap(4), false),
            (gap(MAX_NUMBER - 1), true),
            (gap(MAX_NUMBER), false),
            (reset("f:1"), true),
            (reset("e:1"), false),
            (Read::Closed, true),
        ] {
            assert_eq!(check(read.clone(), ROOM, b""), is_right, "{read:?}");
            assert!(!check(read.clone(), ROOM, LINE), "{read:?}");
        }
    }
}

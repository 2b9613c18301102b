//! The log of one topic: a ring of encoded lines with consecutive numbers. Pure.

use std::collections::VecDeque;

use crate::{
    protocol::{
        Code, Cursor, Epoch, MAX_NUMBER, Position, Step, Topic, Window, stuff, stuffed_len,
    },
    sync::Arc,
    topic::{
        Read, Room,
        compacted::{Compacted, Kept},
        limits::{NOTED, Retention},
    },
};

/// The most bytes between `* TOPIC SP` and the payload: the number and a space.
const NUMBER_SPACE: usize = 16 + 1;
/// The capacity in bytes that a ring may have beyond twice its content.
const SPARE: usize = 1_024;

/// The retained lines of one epoch.
///
/// All lines lie in one ring of bytes, one after the other. So a reader that is behind copies any
/// number of lines in at most two pieces, and appending allocates only while the ring grows.
#[derive(Debug)]
pub(super) struct Log {
    epoch: Epoch,
    /// `* TOPIC SP`, with which every line begins. Its capacity has [`NUMBER_SPACE`] more bytes.
    prefix: Vec<u8>,
    /// The number of the oldest line held.
    first: u64,
    lines: VecDeque<u8>,
    /// Where each line ends, in bytes since the log began.
    ends: VecDeque<u64>,
    /// The age of each line, among the lines of all topics.
    stamps: VecDeque<u64>,
    /// Where the oldest line begins, in bytes since the log began.
    start: u64,
    /// The longest line so far. With it, most reads need not check the length of each line.
    longest: usize,
    retention: Retention,
    /// Holds the lines instead, once a message had a key.
    compacted: Option<Box<Compacted>>,
}

impl Log {
    /// An empty log whose first message gets the number of `begin`.
    pub(super) fn new(topic: &Topic, begin: Position, retention: Retention) -> Self {
        let mut prefix = format!("* {topic} ").into_bytes();
        prefix.reserve_exact(NUMBER_SPACE);
        Self {
            epoch: begin.epoch,
            prefix,
            first: begin.next,
            lines: VecDeque::new(),
            ends: VecDeque::new(),
            stamps: VecDeque::new(),
            start: 0,
            longest: 0,
            retention,
            compacted: None,
        }
    }

    pub(super) fn window(&self) -> Window {
        if let Some(compacted) = &self.compacted {
            let (first, next) = compacted.numbers();
            return Window { epoch: self.epoch, first, next };
        }
        Window { epoch: self.epoch, first: self.first, next: self.first + self.ends.len() as u64 }
    }

    /// Whether no message was ever published to the log.
    pub(super) fn is_unborn(&self) -> bool {
        self.start == 0 && self.ends.is_empty() && self.compacted.is_none()
    }

    /// Whether the epoch has no further number. The position behind the last message must be a
    /// number, too.
    pub(super) fn is_full(&self) -> bool {
        self.window().next >= MAX_NUMBER
    }

    /// The position at which the log goes on.
    pub(super) fn end(&self) -> Position {
        let Window { epoch, next, .. } = self.window();
        Position { epoch, next }
    }

    /// The bytes that count against the budget: the lines, and what is stored beside each.
    pub(super) fn bytes(&self) -> usize {
        let compacted = self.compacted.as_ref().map_or(0, |compacted| compacted.bytes());
        self.lines.len() + self.ends.len() * NOTED + compacted
    }

    /// The age of the oldest line held; `None` if the log is empty.
    pub(super) fn oldest(&self) -> Option<u64> {
        match &self.compacted {
            Some(compacted) => compacted.oldest(),
            None => self.stamps.front().copied(),
        }
    }

    /// Appends a line with this payload, already stuffed, under the age `stamp`. Returns its
    /// number. The log must not be full.
    pub(super) fn append(&mut self, stuffed: &[u8], stamp: u64) -> u64 {
        if self.compacted.is_some() {
            return self.append_compacted(None, stuffed, stamp);
        }
        let sequence = self.window().next;
        let before = self.lines.len();
        // An append to a ring costs more than one to a vector, so the ring gets the head as a whole.
        let length = self.prefix.len();
        self.prefix.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
        if !stuffed.is_empty() {
            self.prefix.push(b' ');
        }
        self.lines.extend(&self.prefix);
        self.prefix.truncate(length);
        self.lines.extend(stuffed);
        self.lines.push_back(b'\n');
        self.longest = self.longest.max(self.lines.len() - before);
        self.ends.push_back(self.start + self.lines.len() as u64);
        self.stamps.push_back(stamp);
        self.evict();
        sequence
    }

    /// As [`append`](Self::append), and the line replaces the one that has the same key. From then
    /// on the log keeps the latest line of each key.
    pub(super) fn append_latest(&mut self, key: &[u8], stuffed: &[u8], stamp: u64) -> u64 {
        self.compact();
        self.append_compacted(Some(key.into()), stuffed, stamp)
    }

    /// The numbers from the next one up to that before `next` were replaced.
    #[cfg(any(feature = "redis", feature = "sqlite"))]
    pub(super) fn replace_to(&mut self, next: u64) {
        self.compact();
        if let Some(compacted) = &mut self.compacted {
            compacted.replace_to(next);
        }
    }

    fn append_compacted(&mut self, key: Option<Arc<[u8]>>, stuffed: &[u8], stamp: u64) -> u64 {
        let sequence = self.window().next;
        let line = encoded(&self.prefix, sequence, stuffed);
        if let Some(compacted) = &mut self.compacted {
            compacted.append(Kept { line, key, stamp }, self.retention);
        }
        sequence
    }

    /// Moves the lines to a log that may have holes.
    fn compact(&mut self) {
        if self.compacted.is_some() {
            return;
        }
        let mut compacted = Compacted::new(self.first);
        for (index, &stamp) in self.stamps.iter().enumerate() {
            let mut line = Vec::new();
            let [begin, end] =
                [index, index + 1].map(|at| (self.line_start(at) - self.start) as usize);
            self.copy_bytes(begin, end, &mut line);
            compacted.append(Kept { line: line.into(), key: None, stamp }, self.retention);
        }
        self.start += self.lines.len() as u64;
        (self.lines, self.ends, self.stamps) = Default::default();
        self.compacted = Some(Box::new(compacted));
    }

    /// Drops the oldest lines over the limits. The newest line always stays.
    fn evict(&mut self) {
        while self.ends.len() > 1
            && (self.ends.len() > self.retention.messages
                || self.lines.len() > self.retention.bytes)
        {
            self.drop_oldest();
        }
    }

    /// Drops all lines, and gives their memory back.
    pub(super) fn clear(&mut self) {
        if let Some(compacted) = &mut self.compacted {
            return compacted.clear();
        }
        self.first += self.ends.len() as u64;
        self.start += self.lines.len() as u64;
        (self.lines, self.ends, self.stamps) = Default::default();
    }

    /// Drops the oldest line, if there is one. The capacity of the rings stays within about twice
    /// their content, so a log that shrinks gives memory back.
    pub(super) fn drop_oldest(&mut self) {
        if let Some(compacted) = &mut self.compacted {
            return compacted.drop_oldest();
        }
        let Some(end) = self.ends.pop_front() else { return };
        self.stamps.pop_front();
        self.lines.drain(..(end - self.start) as usize);
        self.start = end;
        self.first += 1;
        // The rings shrink to less than the limit. Otherwise the next dropped line would move them
        // again.
        let (lines, ends) = (self.lines.len(), self.ends.len());
        if self.lines.capacity() > 2 * lines + SPARE {
            self.lines.shrink_to(lines + lines / 2);
        }
        if self.ends.capacity() > 2 * ends + SPARE / NOTED {
            self.ends.shrink_to(ends + ends / 2);
            self.stamps.shrink_to(ends + ends / 2);
        }
    }

    /// The cursor's next step; `None` when it stands at the head.
    pub(super) fn read(&self, cursor: Cursor, room: Room, out: &mut Vec<u8>) -> Option<Read> {
        if let Some(compacted) = &self.compacted {
            return compacted.read(cursor, self.window(), room, out);
        }
        match cursor.step(self.window()).1 {
            Step::CaughtUp => None,
            Step::Reset(position) => Some(Read::Reset(position)),
            Step::Gap { last, .. } => Some(Read::Gap { last, reason: Code::RETENTION }),
            Step::Read { first, .. } => Some(self.copy((first - self.first) as usize, room, out)),
        }
    }

    fn copy(&self, from: usize, room: Room, out: &mut Vec<u8>) -> Read {
        let begin = self.line_start(from);
        let full_at = begin.saturating_add(room.bytes.max(1) as u64);
        let last = self.ends.partition_point(|&end| end < full_at);
        let lines = usize::try_from(room.lines).unwrap_or(usize::MAX).max(1);
        let mut last = last.min(self.ends.len() - 1).min(from.saturating_add(lines - 1));
        if self.longest > room.max_line {
            let fits = |&at: &usize| self.line_len(at) <= room.max_line;
            let fitting = (from..=last).take_while(fits).count();
            if fitting == 0 {
                let unfit = (from..self.ends.len()).take_while(|at| !fits(at)).count();
                return self.too_large(from + unfit - 1);
            }
            last = from + fitting - 1;
        }
        let end = self.line_start(last + 1);
        self.copy_bytes((begin - self.start) as usize, (end - self.start) as usize, out);
        Read::Copied { last: self.first + last as u64 }
    }

    fn too_large(&self, last: usize) -> Read {
        Read::Gap { last: self.first + last as u64, reason: Code::TOO_LARGE }
    }

    /// Where the line at `index` begins, in bytes since the log began.
    fn line_start(&self, index: usize) -> u64 {
        match index {
            0 => self.start,
            _ => self.ends.get(index - 1).copied().unwrap_or(self.start),
        }
    }

    fn line_len(&self, index: usize) -> usize {
        (self.line_start(index + 1) - self.line_start(index)) as usize
    }

    fn copy_bytes(&self, begin: usize, end: usize, out: &mut Vec<u8>) {
        let (front, back) = self.lines.as_slices();
        let seam = front.len();
        if begin < seam {
            out.extend_from_slice(&front[begin..end.min(seam)]);
        }
        if end > seam {
            out.extend_from_slice(&back[begin.max(seam) - seam..end - seam]);
        }
    }
}

/// The line of a message.
fn encoded(prefix: &[u8], sequence: u64, stuffed: &[u8]) -> Box<[u8]> {
    let mut number = itoa::Buffer::new();
    let space: &[u8] = if stuffed.is_empty() { b"" } else { b" " };
    [prefix, number.format(sequence).as_bytes(), space, stuffed, b"\n"].concat().into()
}

/// The payload as it stands in a line. It is copied to `buffer` only if it has to be stuffed.
pub(super) fn stuffed<'a>(payload: &'a [u8], buffer: &'a mut Vec<u8>) -> &'a [u8] {
    if stuffed_len(payload) == payload.len() {
        return payload;
    }
    stuff(payload, buffer);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { bytes: 1 << 20, lines: u64::MAX, max_line: 1 << 16 };

    fn log(messages: usize, bytes: usize) -> Log {
        let begin = "e:1".parse().unwrap();
        Log::new(&Topic::new("t").unwrap(), begin, Retention { messages, bytes })
    }

    fn at(log: &Log, next: u64) -> Cursor {
        let epoch = log.epoch;
        Cursor { position: Position { epoch, next } }
    }

    /// Everything that a cursor reads from `next` on, with gaps in brackets.
    fn drain(log: &Log, next: u64, room: Room) -> String {
        let (mut cursor, mut out) = (at(log, next), Vec::new());
        loop {
            match log.read(cursor, room, &mut out) {
                None => return String::from_utf8(out).unwrap(),
                Some(Read::Copied { last }) => cursor = cursor.delivered(last),
                Some(Read::Gap { last, reason }) => {
                    out.extend(format!("[{last} {reason}]").bytes());
                    cursor = cursor.delivered(last);
                }
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn lines_are_read_back_with_any_room() {
        let mut log = log(10, 1_000);
        for payload in [&b"a"[..], b"", b"ccc"] {
            log.append(payload, 0);
        }
        let all = "* t 1 a\n* t 2\n* t 3 ccc\n";
        for bytes in 0..30 {
            assert_eq!(drain(&log, 1, Room { bytes, ..ROOM }), all);
        }
        assert_eq!(drain(&log, 3, ROOM), "* t 3 ccc\n");
        assert_eq!(drain(&log, 4, ROOM), "");
    }

    #[test]
    fn room_is_overshot_by_one_line_at_most() {
        let mut log = log(10, 1_000);
        for _ in 0..3 {
            log.append(b"xx", 0);
        }
        let mut out = Vec::new();
        for (bytes, last) in [(1, 1), (9, 1), (10, 2), (18, 2), (19, 3), (99, 3)] {
            let read = log.read(at(&log, 1), Room { bytes, ..ROOM }, &mut out);
            assert_eq!(read, Some(Read::Copied { last }), "{bytes}");
        }
    }

    #[test]
    fn no_more_lines_are_read_than_there_is_room_for() {
        let mut log = log(10, 1_000);
        for _ in 0..4 {
            log.append(b"xx", 0);
        }
        let mut out = Vec::new();
        for (lines, last) in [(1, 2), (2, 3), (3, 4), (4, 4), (u64::MAX, 4)] {
            let read = log.read(at(&log, 2), Room { lines, ..ROOM }, &mut out);
            assert_eq!(read, Some(Read::Copied { last }), "{lines}");
        }
    }

    #[test]
    fn the_oldest_leave_by_count_and_by_bytes_and_are_named() {
        let mut by_count = log(2, 1_000);
        for _ in 0..5 {
            by_count.append(b"x", 0);
        }
        assert_eq!(drain(&by_count, 2, ROOM), "[3 retention]* t 4 x\n* t 5 x\n");
        let mut by_bytes = log(100, 20);
        for _ in 0..100 {
            by_bytes.append(b"x", 0);
        }
        assert!(by_bytes.lines.len() <= 20);
        assert_eq!(by_bytes.window().head(), 100);
        by_bytes.append(&[b'y'; 50], 0);
        assert_eq!(by_bytes.window().first, 101);
    }

    #[test]
    fn lines_over_the_subscribers_limit_are_named() {
        let mut log = log(10, 1_000);
        for payload in [&b"a"[..], b"long", b"longer", b"b", b"long"] {
            log.append(payload, 0);
        }
        let room = Room { max_line: 8, ..ROOM };
        let expected = "* t 1 a\n[3 too-large]* t 4 b\n[5 too-large]";
        assert_eq!(drain(&log, 1, room), expected);
    }

    #[test]
    fn a_log_that_shrinks_gives_memory_back() {
        let mut log = log(1_000, 1 << 20);
        for _ in 0..1_000 {
            log.append(&[b'x'; 500], 0);
        }
        while log.oldest().is_some() {
            log.drop_oldest();
            assert!(log.lines.capacity() <= 2 * log.lines.len() + SPARE);
            let noted = NOTED * (log.ends.capacity().max(log.stamps.capacity()));
            assert!(noted <= 2 * NOTED * log.ends.len() + SPARE);
        }
        assert_eq!((log.window().first, log.window().next), (1_001, 1_001));
        assert_eq!(drain(&log, 1, ROOM), "[1000 retention]");
        log.append(b"a", 0);
        assert_eq!(drain(&log, 1_001, ROOM), "* t 1001 a\n");
    }

    #[test]
    fn the_ring_may_wrap_anywhere() {
        let mut log = log(3, 1_000);
        for n in 1..=200u64 {
            log.append(&vec![b'x'; (n % 17) as usize], 0);
            let first = log.window().first;
            let lines = drain(&log, first, ROOM);
            assert_eq!(lines.lines().count() as u64, n - first + 1);
            assert!(lines.lines().all(|line| line.starts_with("* t ")), "{lines}");
        }
    }
}

//! A log that keeps the latest message of each key. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::{
    protocol::{Code, Cursor, Step, Window},
    sync::Arc,
    topic::{
        Read, Room,
        limits::{NOTED, Retention},
    },
};

/// The bytes that a key counts for beyond its own.
const KEYED: usize = 64;

/// The retained lines of a log, from which a line is removed when a later one has its key. So there
/// may be holes between the numbers.
#[derive(Debug)]
pub(super) struct Compacted {
    lines: BTreeMap<u64, Kept>,
    /// The number of the line that has each key.
    by_key: HashMap<Arc<[u8]>, u64>,
    /// The bytes of all lines.
    line_bytes: usize,
    /// What counts beside the lines.
    noted: usize,
    /// Lines below this number left for lack of room. Missing lines from here on were replaced.
    gone: u64,
    /// The number of the next message.
    next: u64,
}

/// A line, with its key and its age.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) line: Box<[u8]>,
    pub(super) key: Option<Arc<[u8]>>,
    pub(super) stamp: u64,
}

impl Kept {
    fn noted(&self) -> usize {
        NOTED + self.key.as_ref().map_or(0, |key| KEYED + key.len())
    }
}

impl Compacted {
    /// A log without lines. The next message gets the number `next`.
    pub(super) fn new(next: u64) -> Self {
        let (lines, by_key) = (BTreeMap::new(), HashMap::new());
        Self { lines, by_key, line_bytes: 0, noted: 0, gone: next, next }
    }

    /// The numbers held, from the oldest to the next to come.
    pub(super) fn numbers(&self) -> (u64, u64) {
        let oldest = self.lines.first_key_value();
        (oldest.map_or(self.next, |(&number, _)| number), self.next)
    }

    /// The bytes that count against the budget.
    pub(super) fn bytes(&self) -> usize {
        self.line_bytes + self.noted
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.lines.first_key_value().map(|(_, kept)| kept.stamp)
    }

    /// Appends a line. It replaces the line that has the same key.
    pub(super) fn append(&mut self, kept: Kept, retention: Retention) {
        let number = self.next;
        self.next += 1;
        self.line_bytes += kept.line.len();
        self.noted += kept.noted();
        if let Some(key) = &kept.key
            && let Some(before) = self.by_key.insert(key.clone(), number)
        {
            self.remove(before);
        }
        self.lines.insert(number, kept);
        self.evict(retention);
    }

    /// The numbers from the next one up to that before `next` were replaced.
    #[cfg(any(feature = "redis", feature = "sqlite"))]
    pub(super) fn replace_to(&mut self, next: u64) {
        self.next = next;
    }

    /// Drops the oldest lines over the limits. The newest line always stays.
    fn evict(&mut self, retention: Retention) {
        while self.lines.len() > 1
            && (self.lines.len() > retention.messages || self.line_bytes > retention.bytes)
        {
            self.drop_oldest();
        }
    }

    /// Drops the oldest line, if there is one, for lack of room.
    pub(super) fn drop_oldest(&mut self) {
        let Some((&number, _)) = self.lines.first_key_value() else { return };
        if let Some(Kept { key: Some(key), .. }) = self.remove(number) {
            self.by_key.remove(&key);
        }
        self.gone = number + 1;
        if self.by_key.capacity() > 4 * self.by_key.len() + KEYED {
            self.by_key.shrink_to_fit();
        }
    }

    /// Drops all lines.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.next);
    }

    fn remove(&mut self, number: u64) -> Option<Kept> {
        let kept = self.lines.remove(&number)?;
        self.line_bytes -= kept.line.len();
        self.noted -= kept.noted();
        Some(kept)
    }

    /// The cursor's next step; `None` when it stands at the head.
    pub(super) fn read(
        &self,
        cursor: Cursor,
        window: Window,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Option<Read> {
        match cursor.step(window).1 {
            Step::CaughtUp => None,
            Step::Reset(position) => Some(Read::Reset(position)),
            Step::Gap { .. } | Step::Read { .. } => {
                Some(self.read_from(cursor.position.next, room, out))
            }
        }
    }

    fn read_from(&self, at: u64, room: Room, out: &mut Vec<u8>) -> Read {
        let present = self.lines.range(at..).next().map_or(self.next, |(&number, _)| number);
        match present {
            _ if at < self.gone => {
                Read::Gap { last: self.gone.min(present) - 1, reason: Code::RETENTION }
            }
            _ if at < present => Read::Gap { last: present - 1, reason: Code::REPLACED },
            _ => self.copy(at, room, out),
        }
    }

    /// Copies the lines from `at` on, up to the first hole or line that is too long.
    fn copy(&self, at: u64, room: Room, out: &mut Vec<u8>) -> Read {
        let run = |fits: bool| {
            let run = self.lines.range(at..).zip(at..).map(|((&at, kept), next)| (at, next, kept));
            run.take_while(|(at, next, _)| at == next)
                .map(|(at, _, kept)| (at, kept))
                .take_while(move |(_, kept)| (kept.line.len() <= room.max_line) == fits)
        };
        if let Some((last, _)) = run(false).last() {
            return Read::Gap { last, reason: Code::TOO_LARGE };
        }
        let (full_at, end) = (out.len() + room.bytes.max(1), at.saturating_add(room.lines.max(1)));
        let mut last = at;
        for (number, kept) in run(true) {
            if out.len() >= full_at || number >= end {
                break;
            }
            out.extend_from_slice(&kept.line);
            last = number;
        }
        Read::Copied { last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Epoch, Position};

    const EPOCH: &str = "e";

    fn room(bytes: usize, lines: u64, max_line: usize) -> Room {
        Room { bytes, lines, max_line }
    }

    /// Everything that a cursor reads from number 1 on: lines, and gaps in brackets.
    fn drain(log: &Compacted, room: Room) -> String {
        let epoch = Epoch::new(EPOCH).unwrap();
        let (first, next) = log.numbers();
        let mut cursor = Cursor { position: Position { epoch, next: 1 } };
        let mut all = String::new();
        loop {
            let mut out = Vec::new();
            match log.read(cursor, Window { epoch, first, next }, room, &mut out) {
                None => return all,
                Some(Read::Copied { last }) => {
                    all.push_str(std::str::from_utf8(&out).unwrap());
                    cursor = cursor.delivered(last);
                }
                Some(Read::Gap { last, reason }) => {
                    all.push_str(&format!("[{} {last} {reason}]", cursor.position.next));
                    cursor = cursor.delivered(last);
                }
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    fn append(log: &mut Compacted, key: &str, retention: Retention) {
        let line = format!("{} {key}\n", log.next).into_bytes().into();
        let key = Some(key).filter(|key| !key.is_empty()).map(|key| key.as_bytes().into());
        log.append(Kept { line, key, stamp: log.next }, retention);
    }

    #[test]
    fn replaced_lines_are_named_apart_from_those_that_left() {
        let mut log = Compacted::new(1);
        let retention = Retention { messages: 3, bytes: 1_000 };
        for key in ["a", "b", "b", "a"] {
            append(&mut log, key, retention);
        }
        assert_eq!(drain(&log, room(99, 9, 99)), "[1 2 replaced]3 b\n4 a\n");
        for key in ["", "c", "a"] {
            append(&mut log, key, retention);
        }
        // Number 3 left for lack of room when 6 came. 4 was replaced by 7.
        assert_eq!(drain(&log, room(99, 9, 99)), "[1 3 retention][4 4 replaced]5 \n6 c\n7 a\n");
        assert_eq!(drain(&log, room(99, 9, 3)), "[1 3 retention][4 4 replaced]5 \n[6 7 too-large]");
        assert_eq!((log.numbers(), log.oldest()), ((5, 8), Some(5)));
    }

    /// Compares with a list of all messages, with any room and under any limits.
    #[test]
    fn it_agrees_with_a_list_of_all_messages() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..40 {
            let (mut log, mut list) = (Compacted::new(1), Vec::new());
            let retention = Retention { messages: random.usize(1..12), bytes: random.usize(1..80) };
            let mut gone = 1;
            for number in 1..=200u64 {
                let key = ["", "a", "b", "c", "long-key"][random.usize(..5)];
                append(&mut log, key, retention);
                list.retain(|&(_, other)| key.is_empty() || other != key);
                list.push((number, key));
                let line = |&(number, key): &(u64, &str)| format!("{number} {key}\n");
                let bytes = |list: &Vec<_>| list.iter().map(|one| line(one).len()).sum::<usize>();
                while list.len() > 1
                    && (list.len() > retention.messages || bytes(&list) > retention.bytes)
                {
                    gone = list.remove(0).0 + 1;
                }
                let mut expected = String::new();
                if gone > 1 {
                    expected = format!("[1 {} retention]", gone - 1);
                }
                let mut next = gone;
                for one in &list {
                    if one.0 > next {
                        expected.push_str(&format!("[{next} {} replaced]", one.0 - 1));
                    }
                    expected.push_str(&line(one));
                    next = one.0 + 1;
                }
                let room = room(random.usize(..30), random.u64(..5), 99);
                assert_eq!(drain(&log, room), expected, "round {round}");
                let keys = list.iter().filter(|(_, key)| !key.is_empty()).map(|(_, key)| key.len());
                let noted = list.len() * NOTED + keys.map(|key| key + KEYED).sum::<usize>();
                assert_eq!(log.bytes(), bytes(&list) + noted);
            }
            log.clear();
            assert_eq!((log.bytes(), log.numbers(), log.oldest()), (0, (201, 201), None));
            assert_eq!(drain(&log, room(9, 9, 9)), "[1 200 retention]");
        }
    }
}

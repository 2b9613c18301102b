//! A reader of a topic: from the tail where it can, from the archive where it must.

use std::task::{Context, Poll, ready};

use super::{Archive, Ask, Fetched, Kept, Tail};
use crate::{
    protocol::{Code, Cursor, Position, Step, Topic, Window},
    sync::Arc,
    topic::{
        BoxFuture, Read, Room, TopicReader, Unavailable,
        limits::Retention,
        log::{Log, stuffed},
    },
};

/// The bytes that are asked of an archive at once. A reader may hold so many, and one message more.
const FETCH: usize = 16 << 10;

const UNBOUNDED: Retention = Retention { messages: usize::MAX, bytes: usize::MAX };

pub(in crate::topic) struct TailReader<A: Archive> {
    tail: Arc<Tail<A>>,
    kept: Arc<Kept>,
    slot: u32,
    /// What the archive is being asked for.
    asked: Option<Asked>,
    /// What came from the archive and was not read yet.
    chunk: Option<Chunk>,
}

/// A part of a log, from this position on.
struct Chunk {
    from: Position,
    log: Log,
}

struct Asked {
    from: Position,
    messages: BoxFuture<Result<Vec<Fetched>, Unavailable>>,
}

/// A step by the tail alone.
enum Stepped {
    Done(Read),
    Waits,
    /// The messages up to the one before `edge` are in the archive only.
    Behind {
        edge: u64,
    },
}

impl<A: Archive> TailReader<A> {
    /// A reader of `topic`.
    pub(in crate::topic) fn open(tail: &Arc<Tail<A>>, topic: &Topic) -> Self {
        let (kept, slot) = tail.enter(topic);
        Self { tail: tail.clone(), kept, slot, asked: None, chunk: None }
    }

    fn step(&self, cx: &mut Context<'_>, cursor: Cursor, room: Room, out: &mut Vec<u8>) -> Stepped {
        let mut state = self.kept.entry.state.lock();
        let edge = state.log.window().first;
        match cursor.step(self.kept.window(&state)).1 {
            Step::Reset(position) => Stepped::Done(Read::Reset(position)),
            Step::Gap { last, .. } => Stepped::Done(Read::Gap { last, reason: Code::RETENTION }),
            Step::Read { first, .. } if first < edge => Stepped::Behind { edge },
            Step::Read { .. } | Step::CaughtUp => match state.log.read(cursor, room, out) {
                Some(read) => Stepped::Done(read),
                None if state.is_closed => Stepped::Done(Read::Closed),
                None => {
                    let before = state.readers.wait(self.slot, cx.waker());
                    drop(state);
                    drop(before);
                    Stepped::Waits
                }
            },
        }
    }

    /// Reads what came from the archive; `None` if that is not what the cursor needs.
    fn read_chunk(&mut self, cursor: Cursor, room: Room, out: &mut Vec<u8>) -> Option<Read> {
        let Chunk { from, log } = self.chunk.as_ref()?;
        let next = log.window().next;
        let Position { epoch, next: number } = cursor.position;
        let read = match from.epoch == epoch && (from.next..next).contains(&number) {
            true => log.read(cursor, room, out),
            false => None,
        };
        let is_over = match read.as_ref() {
            Some(&(Read::Copied { last } | Read::Gap { last, .. })) => last + 1 >= next,
            _ => true,
        };
        if is_over {
            self.chunk = None;
        }
        read
    }

    /// Asks the archive for what the cursor needs. Puts it into the chunk, or names what is lost.
    fn poll_archive(
        &mut self,
        cx: &mut Context<'_>,
        from: Position,
        edge: u64,
    ) -> Poll<Result<Option<Read>, Unavailable>> {
        if self.asked.as_ref().is_none_or(|asked| asked.from != from) {
            let (topic, log) = (self.kept.entry.topic.clone(), self.kept.log().unwrap_or(0));
            let messages = self.tail.archive.fetch(Ask { topic, log, from, bytes: FETCH });
            self.asked = Some(Asked { from, messages });
        }
        let Some(asked) = &mut self.asked else { return Poll::Pending };
        let messages = ready!(asked.messages.as_mut().poll(cx));
        self.asked = None;
        Poll::Ready(messages.map(|messages| self.take(messages, from, edge)))
    }

    /// Keeps what follows without a hole from `from` on. Without that, the numbers below the next
    /// message are lost, unless they are no longer retained.
    fn take(&mut self, found: Vec<Fetched>, from: Position, edge: u64) -> Option<Read> {
        let next = found.first().map_or(edge, |found| found.first().min(edge));
        if next > from.next {
            let is_retained = self.kept.first() <= from.next;
            return is_retained.then_some(Read::Gap { last: next - 1, reason: A::LOST });
        }
        let mut log = Log::new(&self.kept.entry.topic, from, UNBOUNDED);
        let (mut next, mut buffer) = (from.next, Vec::new());
        for found in found {
            match found {
                _ if next >= edge => break,
                Fetched::Message { sequence, payload } if sequence == next => {
                    buffer.clear();
                    log.append(stuffed(&payload, &mut buffer), 0);
                    next += 1;
                }
                Fetched::Replaced { first, last } if (first..=last).contains(&next) => {
                    next = edge.min(last + 1);
                    log.replace_to(next);
                }
                _ => break,
            }
        }
        self.chunk = Some(Chunk { from, log });
        None
    }
}

impl<A: Archive> TopicReader for TailReader<A> {
    fn poll_window(&mut self, _: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        Poll::Ready(Ok(self.kept.window(&self.kept.entry.state.lock())))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        loop {
            let edge = match self.step(cx, cursor, room, out) {
                Stepped::Done(read) => {
                    (self.asked, self.chunk) = (None, None);
                    return Poll::Ready(Ok(read));
                }
                Stepped::Waits => return Poll::Pending,
                Stepped::Behind { edge } => edge,
            };
            if let Some(read) = self.read_chunk(cursor, room, out) {
                return Poll::Ready(Ok(read));
            }
            if let Some(gap) = ready!(self.poll_archive(cx, cursor.position, edge))? {
                return Poll::Ready(Ok(gap));
            }
        }
    }
}

impl<A: Archive> Drop for TailReader<A> {
    fn drop(&mut self) {
        self.tail.leave(&self.kept, self.slot);
    }
}

//! The streamed replies of a connection: their credit and their turns (docs/protocol/streams.md,
//! section 15).

use crate::{
    guard::guarded,
    protocol::{Code, Line, Outcome, RequestId, encode, parse_number},
    server::{
        core::{
            active::Active,
            arguments::Refusal,
            connection::{Connection, Taken},
            in_flight::{NEVER, Turn},
            requests::Work,
        },
        handlers::{reply::Failure, running::Running, streamed::Items},
    },
};
use bytes::Bytes;

/// How many streams are polled in a round, one item each, before other work of the connection and
/// of the runtime has its turn. Small items of as many streams fill about one write.
const TURNS: usize = 128;
const MORE_USAGE: &str = "usage: /more ID N";

impl Connection {
    /// Processes `* /more ID N`.
    pub(super) fn more(&mut self, line: &Line<'_>) -> Result<Taken, Refusal> {
        let (id, items) = line.rest.split_argument();
        let id = parse_number(id).and_then(RequestId::new);
        let items = parse_number(&items.plain()).filter(|&items| items > 0);
        let (Some(id), Some(items)) = (id, items) else {
            return Err((Code::BAD_ARGUMENTS, MORE_USAGE.to_owned()));
        };
        let now = self.now;
        let active = self.active.as_mut();
        let deadline = active.and_then(|active| active.in_flight.add_credit(id, items, now));
        deadline.into_iter().for_each(|deadline| self.set_timeout(deadline));
        Ok(Taken::Yes)
    }

    /// Keeps a stream that a handler returned at once. The stream of a one-way request is dropped,
    /// because it has no reply.
    pub(super) fn keep_stream(&mut self, work: Work, mut items: Items) {
        match work.id {
            Some(_) => self.keep(work, Running::Stream(items)),
            None => items.over(Outcome::Ok),
        }
    }

    /// Polls the streams at the beginning of a round, if they had no turn in the last one.
    pub(super) fn poll_streams_first(&mut self) {
        if self.active.as_ref().is_some_and(|active| active.streams_first) {
            let served = self.serve_streams();
            self.active().streams_first = !served;
        }
    }

    /// Polls the streams at the end of a round.
    pub(super) fn poll_streams(&mut self) {
        let waits = |active: &Active| active.in_flight.has_ready_stream();
        if !self.active.as_deref().is_some_and(waits) {
            return;
        }
        let others_served = self.unwritten() > self.active().unwritten_before;
        let served = self.serve_streams();
        let active = self.active();
        active.streams_first = !served && (active.streams_first || others_served);
    }

    /// Whether a stream may be polled now.
    pub(super) fn can_stream(&self) -> bool {
        let waits = |active: &Active| active.in_flight.has_ready_stream();
        self.active.as_deref().is_some_and(waits) && self.has_room_for_items()
    }

    /// Streams wait at the mark for replies. While there are notifications to copy, they wait at
    /// the lower of the two marks: otherwise notifications would never get below their mark.
    fn has_room_for_items(&self) -> bool {
        let mark = match self.subscriptions.as_ref().is_some_and(|list| list.is_ready()) {
            true => self.reply_mark().min(self.notification_mark()),
            false => self.reply_mark(),
        };
        self.unwritten() < mark
    }

    /// Ends the streams that wait for credit, because none can come any more.
    pub(super) fn end_starved_streams(&mut self) {
        if let Some(active) = &mut self.active {
            let over = active.in_flight.end_starved();
            over.into_iter().for_each(|over| self.finish(over));
        }
    }

    /// No credit is read after a held line. If all places are held by streams that wait for credit,
    /// ends the oldest of them. Returns whether one was ended.
    pub(super) fn free_a_place(&mut self) -> bool {
        let waits = |active: &Active| active.held.is_some();
        let is_behind = self.unwritten() >= self.reply_mark();
        if !self.active.as_deref().is_some_and(waits)
            || is_behind
            || self.is_waiting()
            || self.is_subscribing()
            || self.has_place()
        {
            return false;
        }
        let over = self.active().in_flight.end_one_starved();
        over.map(|over| self.finish(over)).is_some()
    }

    /// Restarts the time for the next items, if the streams had to wait because the client does not
    /// read.
    pub(super) fn put_off_streams(&mut self) {
        if !self.has_room_for_items() {
            let now = self.now;
            self.active().in_flight.put_off_streams(now);
        }
    }

    fn serve_streams(&mut self) -> bool {
        let mut served = false;
        for _ in 0..TURNS {
            if !self.can_stream() {
                break;
            }
            served = true;
            match self.active().in_flight.poll_stream() {
                Turn::Nothing => {}
                Turn::Over(over) => self.finish(over),
                Turn::Item { slot, id, payload } => {
                    self.stream_item(slot, id, &payload);
                    // Dropping the bytes can run user code, so it is guarded.
                    guarded(|| drop(payload));
                }
            }
        }
        served
    }

    fn stream_item(&mut self, slot: usize, id: RequestId, payload: &Bytes) {
        let now = self.now;
        let can_get_credit = self.state.is_reading();
        let max_line = self.client_max_line;
        let active = self.active();
        let out = active.out.bytes();
        let begin = out.len();
        encode::more(out, id, payload);
        let (over, deadline) = if out.len() - begin > max_line {
            out.truncate(begin);
            let text = format!("max-line is {max_line}");
            (active.in_flight.fail(slot, Failure::new(Code::TOO_LARGE, text)), NEVER)
        } else {
            active.in_flight.go_on(slot, now, can_get_credit)
        };
        self.set_timeout(deadline);
        over.into_iter().for_each(|over| self.finish(over));
    }
}

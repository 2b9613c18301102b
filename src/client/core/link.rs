//! One connection as the client's handles see it: its outbound lines, its pending calls, its gates.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, task::Waker, time::Duration};

use tokio::{sync::Semaphore, time::Instant};

use crate::{
    client::{
        core::body::Body,
        core::pending::Pending,
        core::waiter::{Entry, Waiter},
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    io::WriteBuffer,
    protocol::{Code, Hello, Mark, Reason, RequestId, encode},
    sync::Arc,
};

/// Which connection of a client, counted from its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkId(u64);

impl LinkId {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A line with an id that no call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// The request had its terminal line before.
    Doubled,
    /// No request with this id was sent.
    Unasked,
}

/// Why a line could not be appended.
pub(crate) enum SendError {
    /// The outbound buffer is over its mark: wait until it is drained.
    Full,
    /// There is no place in flight, or no connection: wait for a place.
    NoPlace,
    Refused(NotSent),
}

/// What was not offered to the transport.
#[derive(Default)]
pub(crate) struct Withdrawn {
    /// Who waits for requests, in the order of their ids.
    pub(crate) waiters: Vec<Waiter>,
    /// One-way lines of the application's.
    pub(crate) one_ways: Vec<u8>,
}

/// Shut until the server has said hello: nothing is appended before that.
///
/// **Invariant:** no waker is woken, no one-shot sent and no user code run while it is locked.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// Whole lines that wait to be written.
    out: Vec<u8>,
    /// Length of the outbound stream up to the end of `out`.
    appended: u64,
    /// Length of the outbound stream up to what was offered to the transport.
    offered: u64,
    pub(crate) pending: Pending<Entry>,
    /// The ids that were given out here, in runs: while a client leaves one connection for another,
    /// both draw from one sequence.
    ids: Vec<RangeInclusive<u64>>,
    /// Places in flight: none before the hello. Closed when nothing new begins here any more;
    /// waiting calls then get an error and retry on the current link.
    pub(crate) places: Arc<Semaphore>,
    /// Places that the hello has opened, once they are there.
    pub(crate) opened: usize,
    /// Requests in `pending` that hold a place in flight.
    placed: usize,
    /// Credit for streamed replies, to be written with what is written next: so a server that does not
    /// read is owed a line for each reply at most.
    grants: BTreeMap<u64, u64>,
    /// The longest line the server takes, once it has said so.
    max_line: Option<usize>,
    /// Why no line is taken any more: the server has drawn the line.
    refusing: Option<ConnectionError>,
    /// Why no application request and no subscription is begun here any more: the server is about
    /// to go. What is under way goes on, and the protocol's own requests with it.
    leaving: Option<ConnectionError>,
    /// The driver, while it waits.
    driver: Option<Waker>,
    /// The driver waits for the transport to take more: a further line is no news to it.
    is_writing: bool,
    /// Somebody waits for room to write.
    blocked: bool,
    /// Somebody waits for requests of the protocol's own to be answered.
    is_short_of_controls: bool,
    /// Topics have acks for the driver to write.
    acks_due: bool,
    /// When the driver is to ask again for topics, beside what it knows of itself.
    again: Option<Instant>,
}

impl Link {
    pub(crate) fn new(id: LinkId) -> Self {
        Self {
            id,
            out: Vec::new(),
            appended: 0,
            offered: 0,
            pending: Pending::default(),
            ids: Vec::new(),
            places: Arc::new(Semaphore::new(0)),
            opened: 0,
            placed: 0,
            grants: BTreeMap::new(),
            max_line: None,
            refusing: None,
            leaving: None,
            driver: None,
            is_writing: false,
            blocked: false,
            is_short_of_controls: false,
            acks_due: false,
            again: None,
        }
    }

    /// The server has said hello and accepted the credentials. Its places are still to be added.
    pub(crate) fn open(&mut self, hello: &Hello) {
        self.max_line = Some(hello.max_line);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.max_line.is_some()
    }

    /// The server is about to go.
    pub(crate) fn leave(&mut self, error: ConnectionError) {
        self.leaving.get_or_insert(error);
    }

    /// The server has drawn the line.
    pub(crate) fn refuse(&mut self, error: ConnectionError) {
        self.refusing.get_or_insert(error);
    }

    /// Why nothing is begun here any more; `None` while it is.
    pub(crate) fn refusal(&self) -> Option<&ConnectionError> {
        self.refusing.as_ref().or(self.leaving.as_ref())
    }

    /// Why no line at all is taken here any more.
    pub(crate) fn refusing(&self) -> Option<&ConnectionError> {
        self.refusing.as_ref()
    }

    /// Places that are taken, by calls and by tombstones.
    pub(crate) fn in_flight(&self) -> usize {
        // While the places are being added, those of requests are known to be taken.
        self.opened.saturating_sub(self.places.available_permits()).max(self.placed)
    }

    /// Whether another request of the protocol's own may begin, with at most `limit` unanswered. If
    /// not, the caller waits.
    pub(crate) fn has_control_room(&mut self, limit: usize) -> bool {
        let is_full = self.controls() >= limit && self.refusal().is_none();
        self.is_short_of_controls |= is_full;
        !is_full
    }

    /// Whether a task waited to begin a request of the protocol's own, and now may.
    pub(crate) fn take_control_room(&mut self, limit: usize) -> bool {
        self.is_short_of_controls
            && self.controls() < limit
            && std::mem::take(&mut self.is_short_of_controls)
    }

    /// Requests of the protocol's own that are not answered.
    fn controls(&self) -> usize {
        self.pending.len() - self.placed
    }

    fn insert(&mut self, id: RequestId, entry: Entry) {
        self.placed += usize::from(entry.waiter.holds_place());
        self.pending.insert(id.get(), entry);
    }

    fn remove(&mut self, id: RequestId) -> Option<Entry> {
        let entry = self.pending.complete(id.get())?;
        self.placed -= usize::from(entry.waiter.holds_place());
        if !self.grants.is_empty() {
            self.grants.remove(&id.get());
        }
        Some(entry)
    }

    /// Whether `id` was given out here.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.ids.iter().rev().any(|run| run.contains(&id))
    }

    /// An id was given out for a line of this connection.
    pub(crate) fn note_id(&mut self, id: u64) {
        match self.ids.last_mut() {
            Some(run) if *run.end() + 1 == id => *run = *run.start()..=id,
            _ => self.ids.push(id..=id),
        }
    }

    /// Whether a request can be appended now.
    pub(crate) fn check(
        &mut self,
        body: &Body,
        ttl: Option<Duration>,
        outbound_bytes: usize,
    ) -> Result<(), SendError> {
        let too_long = |&max_line: &usize| body.max_len() > max_line;
        if let Some(max_line) = self.max_line.filter(too_long) {
            return Err(SendError::Refused(NotSent::TooLarge { max_line }));
        }
        if let Err(error) = body.check_head(ttl.is_some()) {
            return Err(SendError::Refused(NotSent::Attribute(error)));
        }
        if !self.has_room(outbound_bytes) {
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// Whether there is room to write. If not, the caller waits.
    pub(crate) fn has_room(&mut self, outbound_bytes: usize) -> bool {
        let is_full = self.out.len() >= outbound_bytes && self.refusal().is_none();
        self.blocked |= is_full;
        !is_full
    }

    /// Appends an application request with an id.
    pub(crate) fn append_request(
        &mut self,
        id: RequestId,
        body: &Body,
        ttl: Option<Duration>,
        waiter: Waiter,
        expires: Option<Instant>,
    ) -> Option<Waker> {
        let line_end = self.append(|out| {
            encode::mark(out, Mark::Id(id));
            body.append_to(out, ttl);
        });
        self.note_id(id.get());
        self.insert(id, Entry { waiter, line_end, expires });
        self.reader_of_lines()
    }

    /// Appends a one-way request of the application's.
    pub(crate) fn append_one_way(&mut self, body: &Body) -> Option<Waker> {
        self.append(|out| {
            encode::mark(out, Mark::Reserved);
            body.append_to(out, None);
        });
        self.reader_of_lines()
    }

    /// Appends one-way lines of the application's that another connection was not offered, as far as
    /// this server takes them; how many it does not, and the driver to wake.
    pub(crate) fn append_carried(&mut self, lines: &[u8]) -> (u64, Option<Waker>) {
        let max_line = self.max_line.unwrap_or(usize::MAX);
        let (mut fitting, mut dropped) = (Vec::new(), 0);
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            match line.len() <= max_line {
                true => fitting.extend_from_slice(line),
                false => dropped += 1,
            }
        }
        if fitting.is_empty() {
            return (dropped, None);
        }
        self.append(|out| out.append(&mut fitting));
        (dropped, self.reader_of_lines())
    }

    /// Appends a request of the protocol's own.
    pub(crate) fn append_control(
        &mut self,
        id: RequestId,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Option<Waker> {
        let line_end = self.append(|out| encode::display(out, Mark::Id(id), head, arguments));
        self.note_id(id.get());
        self.insert(id, Entry { waiter, line_end, expires: None });
        self.reader_of_lines()
    }

    /// Expects a reply to one of the first lines. They do not go through the outbound buffer, so they
    /// count as offered from the beginning.
    pub(crate) fn expect_reply(&mut self, id: RequestId, waiter: Waiter) {
        self.note_id(id.get());
        self.insert(id, Entry { waiter, line_end: 0, expires: None });
    }

    /// Lets the server send so many more items of a streamed reply.
    pub(crate) fn grant(&mut self, id: RequestId, items: u64) -> Option<Waker> {
        *self.grants.entry(id.get()).or_default() += items;
        self.reader_of_lines()
    }

    /// Appends the credit that was granted, one line for each reply.
    pub(crate) fn append_grants(&mut self) {
        if self.grants.is_empty() {
            return;
        }
        for (id, items) in std::mem::take(&mut self.grants) {
            self.append(|out| {
                let (head, arguments) = (format_args!("/more"), format_args!("{id} {items}"));
                encode::display(out, Mark::Reserved, head, arguments);
            });
        }
    }

    pub(crate) fn append_cancel(&mut self, id: RequestId) -> Option<Waker> {
        self.grants.remove(&id.get());
        self.append_notice(format_args!("/cancel"), format_args!("{id}"))
    }

    /// Appends a one-way request of the protocol's own.
    pub(crate) fn append_notice(
        &mut self,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Option<Waker> {
        self.append(|out| encode::display(out, Mark::Reserved, head, arguments));
        self.reader_of_lines()
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let before = self.out.len();
        write(&mut self.out);
        self.appended += (self.out.len() - before) as u64;
        self.appended
    }

    /// Takes out the waiter of `id`. A request that was never sent has none.
    pub(crate) fn complete(&mut self, id: RequestId) -> Result<Entry, Stray> {
        let Some(entry) = self.remove(id) else {
            return Err(self.stray(id));
        };
        if entry.line_end <= self.offered {
            return Ok(entry);
        }
        self.insert(id, entry);
        Err(Stray::Unasked)
    }

    /// Who waits for `id`, if its line was offered to the transport.
    pub(crate) fn offered_waiter(&mut self, id: RequestId) -> Option<&mut Waiter> {
        let entry = self.pending.get_mut(id.get())?;
        (entry.line_end <= self.offered).then_some(&mut entry.waiter)
    }

    /// What a line under `id` is that has no entry, or one whose line was not offered. An entry stays
    /// until its terminal line, as a tombstone if need be: so of those that are over nothing has to
    /// be remembered but that their ids were given out.
    pub(crate) fn stray(&self, id: RequestId) -> Stray {
        let was_sent = self.knows(id.get()) && !self.pending.has(id.get());
        if was_sent { Stray::Doubled } else { Stray::Unasked }
    }

    /// Takes the unwritten bytes, which count as offered from here on. Returns whether a task
    /// waited for room.
    pub(crate) fn take_outbound(&mut self, buffer: &mut WriteBuffer) -> bool {
        self.append_grants();
        buffer.refill(&mut self.out);
        self.offered = self.appended;
        std::mem::take(&mut self.blocked)
    }

    /// The driver to wake for a new line.
    fn reader_of_lines(&mut self) -> Option<Waker> {
        if self.is_writing { None } else { self.driver.take() }
    }

    /// The driver to wake, whatever it waits for.
    pub(crate) fn take_driver(&mut self) -> Option<Waker> {
        self.driver.take()
    }

    /// Topics have acks to be written; the driver to wake.
    pub(crate) fn announce_acks(&mut self) -> Option<Waker> {
        self.acks_due = true;
        self.reader_of_lines()
    }

    /// Whether there are acks to be written; the caller writes them.
    pub(crate) fn take_acks_due(&mut self) -> bool {
        std::mem::take(&mut self.acks_due)
    }

    /// Topics are to be asked for again then; the driver to wake.
    pub(crate) fn ask_again_at(&mut self, at: Instant) -> Option<Waker> {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
        self.driver.take()
    }

    /// When to ask again for topics; the caller does it.
    pub(crate) fn take_again(&mut self) -> Option<Instant> {
        self.again.take()
    }

    pub(crate) fn has_outbound(&self) -> bool {
        !(self.out.is_empty() && self.grants.is_empty())
    }

    /// Whether no request waits for a reply here, and no byte to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.len() == 0 && self.out.is_empty()
    }

    /// Whether a line was appended, ever.
    pub(crate) fn has_spoken(&self) -> bool {
        self.appended > 0
    }

    /// The driver waits: to be woken by the next line, or, while it `is_writing`, only to close. The
    /// waker that is no longer of use, to be dropped once no lock is held.
    #[must_use]
    pub(crate) fn wait(&mut self, driver: &Waker, is_writing: bool) -> Option<Waker> {
        self.is_writing = is_writing;
        match &mut self.driver {
            Some(known) if known.will_wake(driver) => None,
            other => other.replace(driver.clone()),
        }
    }

    /// Takes back the line of a request and its waiter, if the line was not offered to the
    /// transport: then it was never sent.
    pub(crate) fn take_back(&mut self, id: RequestId) -> Option<Entry> {
        let end = self.pending.get_mut(id.get())?.line_end;
        if end <= self.offered {
            return None;
        }
        let behind = usize::try_from(self.appended - end).ok()?;
        let in_out = self.out.len().checked_sub(behind)?;
        let before = self.out.get(..in_out.checked_sub(1)?)?;
        let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |lf| lf + 1);
        let length = self.out.drain(start..in_out).len() as u64;
        let entry = self.remove(id);
        let ends = self.pending.iter_mut().map(|entry| &mut entry.line_end);
        ends.chain([&mut self.appended]).filter(|at| **at >= end).for_each(|at| *at -= length);
        entry
    }

    /// Ends the calls whose time is over at `now`. Returns the waiter of each, with whether its
    /// line was offered to the transport, and when the next call's time is over.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> (Vec<(Waiter, bool)>, Option<Instant>) {
        let expiry =
            |entry: &Entry| entry.expires.filter(|_| matches!(entry.waiter, Waiter::Call(_)));
        let ids = self.pending.ids_where(|entry| expiry(entry).is_some_and(|at| at <= now));
        let mut overdue = Vec::new();
        for id in ids.into_iter().filter_map(RequestId::new) {
            if let Some(entry) = self.take_back(id) {
                overdue.push((entry.waiter, false));
            } else if let Some(entry) = self.pending.get_mut(id.get()) {
                overdue.push((std::mem::replace(&mut entry.waiter, Waiter::Tombstone), true));
                // The driver is running: it writes next, and needs no waking.
                drop(self.append_cancel(id));
            }
        }
        (overdue, self.pending.iter().filter_map(expiry).min())
    }

    /// Takes back what was not offered to the transport, for another connection. The protocol's own
    /// one-ways stay: they are about requests that were offered.
    pub(crate) fn withdraw(&mut self) -> Withdrawn {
        let offered = self.offered;
        let entries = self.pending.take_where(|entry| entry.line_end > offered);
        let waiters: Vec<_> = entries.into_iter().map(|entry| entry.waiter).collect();
        // Nobody gets their places: nothing is begun here any more.
        let held = waiters.iter().filter(|waiter| waiter.holds_place()).count();
        self.placed -= held;
        self.opened = self.opened.saturating_sub(held);
        let one_ways = self.one_ways();
        let own = self.lines_that(|line| is_one_way(line) && is_protocol(line));
        self.appended = offered + own.len() as u64;
        self.out = own;
        Withdrawn { waiters, one_ways }
    }

    /// The one-way lines of the application's that were not offered to the transport.
    pub(crate) fn one_ways(&self) -> Vec<u8> {
        self.lines_that(|line| is_one_way(line) && !is_protocol(line))
    }

    fn lines_that(&self, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let lines = self.out.split_inclusive(|&byte| byte == b'\n');
        lines.filter(|line| is_wanted(line)).flatten().copied().collect()
    }

    /// The connection is over: all waiters, in the order of their ids, with the outcome that can be
    /// proven.
    ///
    /// `last` is the id above which the server said it executes nothing.
    pub(crate) fn dissolve(
        mut self,
        error: &ConnectionError,
        last: Option<u64>,
    ) -> Vec<(Waiter, CallError)> {
        let offered = self.offered;
        let outcome = |id: u64, entry: &Entry| {
            if entry.line_end > offered {
                CallError::NotSent(NotSent::Lost(error.clone()))
            } else if last.is_some_and(|last| id > last) {
                CallError::Refused { reason: Reason::new(Code::CLOSING, ""), retry: None }
            } else {
                CallError::Unknown(Unknown::Lost(error.clone()))
            }
        };
        let pending = self.pending.drain().into_iter();
        let ended = pending.map(|(id, entry)| {
            let outcome = outcome(id, &entry);
            (entry.waiter, outcome)
        });
        ended.collect()
    }
}

fn is_one_way(line: &[u8]) -> bool {
    line.first() == Some(&b'*')
}

/// Whether the word of a one-way line is the protocol's.
fn is_protocol(line: &[u8]) -> bool {
    line.get(2) == Some(&b'/')
}

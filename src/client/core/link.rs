//! A connection in the core: its state, its outbound lines, and its pending requests.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, task::Waker};

use crate::{
    client::core::{
        key::LinkId,
        pending::Pending,
        state::{LinkState, Outage},
        step::Step,
        waiter::{Expected, Waiter},
    },
    outbound::Outbound,
    protocol::{KeyWindow, Mark, RequestId, encode},
};

/// A line with the id of no waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnmatchedReply {
    /// The request already had its terminal line.
    Doubled,
    /// No request with this id was sent.
    Unasked,
}

/// A connection in the core. Nothing is appended before the server's `/hello`.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) state: LinkState,
    /// Whole lines that wait to be written.
    out: Vec<u8>,
    /// Length of the outbound stream up to the end of `out`.
    appended: u64,
    /// Length of the outbound stream that was offered to the transport.
    offered: u64,
    pub(crate) pending: Pending<Expected>,
    /// The ids of this connection, in runs. There are several runs because two connections draw ids
    /// from one sequence while a client moves to another server.
    ids: Vec<RangeInclusive<u64>>,
    /// Places in flight. 0 before the `/hello`.
    places: usize,
    /// The table of keys that the server announces.
    pub(crate) keys: Option<KeyWindow>,
    /// Requests and tombstones in `pending` that hold a place in flight.
    placed: usize,
    /// Credit for streamed replies, written with the next lines. So at most one line for each reply
    /// waits while the server does not read.
    grants: BTreeMap<u64, u64>,
    /// The driver, while it waits.
    waiting_driver: Option<Waker>,
    /// The driver waits for the transport to take more, so it is not woken for a further line.
    is_writing: bool,
    /// Topics have acks to be written.
    acks_due: bool,
}

impl Link {
    pub(crate) fn new(id: LinkId, outage: Outage) -> Self {
        Self {
            id,
            state: LinkState::Awaited(outage),
            out: Vec::new(),
            appended: 0,
            offered: 0,
            pending: Pending::default(),
            ids: Vec::new(),
            places: 0,
            keys: None,
            placed: 0,
            grants: BTreeMap::new(),
            waiting_driver: None,
            is_writing: false,
            acks_due: false,
        }
    }

    /// Opens the connection: the server has sent `/hello` and accepted the credentials.
    pub(crate) fn open(&mut self, max_line: usize, places: usize, keys: Option<KeyWindow>) {
        (self.state, self.places, self.keys) = (LinkState::Open { max_line }, places, keys);
    }

    /// Places that are taken by requests and tombstones.
    pub(crate) fn in_flight(&self) -> usize {
        self.placed
    }

    pub(crate) fn has_place(&self) -> bool {
        self.placed < self.places
    }

    /// Requests of the protocol itself that are unanswered.
    pub(crate) fn controls(&self) -> usize {
        self.pending.len() - self.placed
    }

    /// Bytes that wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.out.len()
    }

    fn insert(&mut self, id: RequestId, entry: Expected) {
        self.placed += usize::from(entry.waiter.holds_place());
        self.pending.insert(id.get(), entry);
    }

    fn remove(&mut self, id: RequestId) -> Option<Expected> {
        let entry = self.pending.complete(id.get())?;
        self.placed -= usize::from(entry.waiter.holds_place());
        if !self.grants.is_empty() {
            self.grants.remove(&id.get());
        }
        Some(entry)
    }

    /// Whether `id` was used on this connection.
    fn knows(&self, id: u64) -> bool {
        self.ids.iter().rev().any(|run| run.contains(&id))
    }

    /// Notes that an id was used on this connection.
    fn note_id(&mut self, id: u64) {
        match self.ids.last_mut() {
            Some(run) if *run.end() + 1 == id => *run = *run.start()..=id,
            _ => self.ids.push(id..=id),
        }
    }

    /// Appends a request.
    pub(crate) fn append_request(
        &mut self,
        id: RequestId,
        waiter: Waiter,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let line_end = self.append(|out| {
            encode::mark(out, Mark::Id(id));
            write(out);
        });
        self.note_id(id.get());
        self.insert(id, Expected { waiter, line_end });
    }

    /// Appends a request of the protocol itself.
    pub(crate) fn append_control(
        &mut self,
        id: RequestId,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) {
        let line_end = self.append(|out| encode::display(out, Mark::Id(id), head, arguments));
        self.note_id(id.get());
        self.insert(id, Expected { waiter, line_end });
    }

    /// Expects a reply to one of the first lines. These lines bypass the outbound buffer, so they
    /// count as offered from the beginning.
    pub(crate) fn expect_reply(&mut self, id: RequestId, waiter: Waiter) {
        self.note_id(id.get());
        self.insert(id, Expected { waiter, line_end: 0 });
    }

    /// Appends a one-way request of the application.
    pub(crate) fn append_one_way(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(|out| {
            encode::mark(out, Mark::Reserved);
            write(out);
        });
    }

    /// Appends a one-way request of the protocol itself.
    pub(crate) fn append_notice(
        &mut self,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) {
        self.append(|out| encode::display(out, Mark::Reserved, head, arguments));
    }

    pub(crate) fn append_cancel(&mut self, id: RequestId) {
        self.grants.remove(&id.get());
        self.append_notice(format_args!("/cancel"), format_args!("{id}"));
    }

    /// Gives the server credit for this number of items of a streamed reply.
    pub(crate) fn grant(&mut self, id: RequestId, items: u64) {
        *self.grants.entry(id.get()).or_default() += items;
    }

    /// Appends the credit that was given, one line for each reply.
    pub(crate) fn append_grants(&mut self) {
        for (id, items) in std::mem::take(&mut self.grants) {
            self.append_notice(format_args!("/more"), format_args!("{id} {items}"));
        }
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let before = self.out.len();
        write(&mut self.out);
        self.appended += (self.out.len() - before) as u64;
        self.appended
    }

    /// Takes out the waiter for the terminal line `id`. If the line of the request was not offered
    /// to the transport, no request matches.
    pub(crate) fn complete(&mut self, id: RequestId) -> Result<Waiter, UnmatchedReply> {
        let Some(entry) = self.remove(id) else { return Err(self.unmatched(id)) };
        if entry.line_end <= self.offered {
            return Ok(entry.waiter);
        }
        self.insert(id, entry);
        Err(UnmatchedReply::Unasked)
    }

    /// The waiter for `id`, if the line of its request was offered to the transport.
    pub(crate) fn offered_waiter(&mut self, id: RequestId) -> Option<&mut Waiter> {
        let entry = self.pending.get_mut(id.get())?;
        (entry.line_end <= self.offered).then_some(&mut entry.waiter)
    }

    /// Classifies a line with `id` that matches no request.
    ///
    /// An entry stays until its terminal line, as a tombstone if its caller has gone. So it is
    /// enough to remember which ids were used.
    pub(crate) fn unmatched(&self, id: RequestId) -> UnmatchedReply {
        match self.knows(id.get()) && !self.pending.has(id.get()) {
            true => UnmatchedReply::Doubled,
            false => UnmatchedReply::Unasked,
        }
    }

    /// Takes the unwritten bytes, which count as offered from here on.
    pub(crate) fn take_outbound(&mut self, buffer: &mut Outbound) {
        self.append_grants();
        buffer.refill(&mut self.out);
        self.offered = self.appended;
    }

    pub(crate) fn has_outbound(&self) -> bool {
        !(self.out.is_empty() && self.grants.is_empty())
    }

    /// Notes that topics have acks to be written. The driver appends them when it writes next, one
    /// for each topic, so they do not pile up while the server does not read.
    pub(crate) fn announce_acks(&mut self) {
        self.acks_due = true;
    }

    /// Whether there are acks to be written. The caller has to append them.
    pub(crate) fn take_acks_due(&mut self) -> bool {
        std::mem::take(&mut self.acks_due)
    }

    /// Whether no request waits for a reply and no byte waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.len() == 0 && self.out.is_empty()
    }

    /// Whether a line was ever appended.
    pub(crate) fn has_spoken(&self) -> bool {
        self.appended > 0
    }

    /// Wakes the driver for a new line, unless it runs or waits for the transport.
    pub(crate) fn wake_for_line(&mut self, step: &mut Step) {
        if !self.is_writing {
            self.wake_driver(step);
        }
    }

    /// Wakes the driver, also while it waits for the transport, unless it runs.
    pub(crate) fn wake_driver(&mut self, step: &mut Step) {
        if step.driver != Some(self.id) {
            step.wake(self.waiting_driver.take());
        }
    }

    /// The waker of the driver, if it waits.
    pub(crate) fn take_driver(&mut self) -> Option<Waker> {
        self.waiting_driver.take()
    }

    /// Registers the waiting driver. It is woken by the next line or, while it `is_writing`, only
    /// to close.
    pub(crate) fn wait(&mut self, driver: &Waker, is_writing: bool, step: &mut Step) {
        self.is_writing = is_writing;
        match &mut self.waiting_driver {
            Some(known) if known.will_wake(driver) => {}
            other => step.drop_later(other.replace(driver.clone())),
        }
    }

    /// Takes back the line of a request and its waiter, if the line was not offered to the
    /// transport. The request is then not sent.
    pub(crate) fn take_back(&mut self, id: RequestId) -> Option<Waiter> {
        let end = self.pending.get_mut(id.get())?.line_end;
        if end <= self.offered {
            return None;
        }
        let behind = usize::try_from(self.appended - end).ok()?;
        let in_out = self.out.len().checked_sub(behind)?;
        let before = self.out.get(..in_out.checked_sub(1)?)?;
        let start = memchr::memrchr(b'\n', before).map_or(0, |lf| lf + 1);
        let length = self.out.drain(start..in_out).len() as u64;
        let entry = self.remove(id)?;
        let ends = self.pending.iter_mut().map(|entry| &mut entry.line_end);
        ends.chain([&mut self.appended]).filter(|at| **at >= end).for_each(|at| *at -= length);
        Some(entry.waiter)
    }

    /// Takes out the requests whose lines were not offered to the transport, in the order of their
    /// ids, for another connection. Also returns the number of one-way requests of the application
    /// that are dropped with them. One-way requests of the protocol itself stay, because they refer
    /// to requests that were offered.
    pub(crate) fn take_unsent(&mut self) -> (Vec<Waiter>, u64) {
        let offered = self.offered;
        let entries = self.pending.take_where(|entry| entry.line_end > offered);
        let waiters: Vec<_> = entries.into_iter().map(|entry| entry.waiter).collect();
        self.placed -= waiters.iter().filter(|waiter| waiter.holds_place()).count();
        let dropped = self.unsent_one_ways();
        let lines = self.out.split_inclusive(|&byte| byte == b'\n');
        let own = lines.filter(|line| is_one_way(line) && is_protocol(line));
        self.out = own.flatten().copied().collect();
        self.appended = offered + self.out.len() as u64;
        (waiters, dropped)
    }

    /// The number of one-way requests of the application that were not offered to the transport.
    pub(crate) fn unsent_one_ways(&self) -> u64 {
        let lines = self.out.split(|&byte| byte == b'\n');
        lines.filter(|line| is_one_way(line) && !is_protocol(line)).count() as u64
    }

    /// Takes out all waiters in the order of their ids. For each it returns whether its line was
    /// offered to the transport.
    pub(crate) fn drain(&mut self) -> Vec<(RequestId, Waiter, bool)> {
        let offered = self.offered;
        self.placed = 0;
        let pending = self.pending.drain().into_iter();
        let all = pending.filter_map(|(id, entry)| {
            Some((RequestId::new(id)?, entry.waiter, entry.line_end <= offered))
        });
        all.collect()
    }
}

fn is_one_way(line: &[u8]) -> bool {
    line.first() == Some(&b'*')
}

/// Whether the word of a one-way line belongs to the protocol.
fn is_protocol(line: &[u8]) -> bool {
    line.get(2) == Some(&b'/')
}

//! The requests of a client from their first poll to their outcome: waiting, sent, sent again.
//!
//! A request waits in a queue while there is no connection, no place in flight or no room to write.
//! If it is proven not executed, it returns to the queue (guarantee "at most once";
//! docs/protocol/calls.md, section 12). Its caller waits for one outcome over all attempts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    client::core::{
        body::Body,
        caller::{Caller, ListCaller},
        cell::RequestCell,
        items::ItemQueue,
        key::{Key, LinkId},
        links::Links,
        outcome::{CallResult, Reply},
        repetition::{Attempts, Repetition},
        state::LinkState,
        step::{Effect, Step},
        waiter::Waiter,
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{Code, RequestId, Time},
    sync::Arc,
};

/// The maximum size of a list of the protocol itself, in bytes. [`PER_ITEM`] is added for each
/// item. The `/methods` list of a large server fits.
const MAX_LIST: usize = 4 * 1024 * 1024;
const PER_ITEM: usize = 64;

/// The number of free slots that are kept while no request is in the table.
const FREE_SLOTS: usize = 1_024;
/// The pause between two searches of the table for requests whose deadline has passed. A search
/// takes time for each request.
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// A request as its caller submits it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) cell: Arc<RequestCell>,
    pub(crate) caller: Caller,
    /// Its deadline.
    pub(crate) expires: Option<Time>,
    /// Whether `expires` is the request's own deadline. The server then gets the remaining time as
    /// `ttl`, and the caller has a timer.
    pub(crate) has_own_deadline: bool,
    /// Whether it fails without a connection and is not sent again.
    pub(crate) fail_fast: bool,
    /// Whether it is sent again if it may have run.
    pub(crate) repeats: Repetition,
}

/// A request that has not ended.
#[derive(Debug)]
struct Kept {
    request: Request,
    stage: Stage,
    /// Set once a request with a key was sent, or a request is sent again.
    attempts: Option<Box<Attempts>>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// In its queue, under this ticket.
    Waiting(u64),
    /// Refused and to be sent again: it returns to its queue at this time.
    Paused(Time),
    Sent(LinkId, RequestId),
}

/// A slot in the table.
#[derive(Debug)]
struct Slot {
    /// The serial number of the request in this slot.
    serial: u64,
    kept: Option<Kept>,
}

/// Waiting requests, in their order.
#[derive(Debug, Default)]
struct TicketLine(BTreeMap<u64, Key>);

/// All requests of a client: a table with reused slots, and the queues of requests that cannot be
/// sent now.
///
/// Each request belongs to a task of the application that polls it, so the application bounds their
/// number.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    slots: Vec<Slot>,
    free: Vec<u32>,
    last_serial: u64,
    last_ticket: u64,
    /// Requests that need a place in flight.
    calls: TicketLine,
    lists: TicketLine,
    one_ways: TicketLine,
    /// Requests that were refused and are to be sent again.
    paused: BTreeSet<(Time, Key)>,
    /// Requests that may have run, wait to be sent again, and may be until this time because of
    /// their keys.
    repeatable: BTreeSet<(Time, Key)>,
    /// The earliest time at which the deadline of a request without `ttl` may have passed. Later
    /// requests have the same limit and so later deadlines, so it does not change with each
    /// request.
    overdue: Option<Time>,
}

impl Requests {
    /// Submits a request: sends it, or lets it wait. Returns whether it was sent.
    ///
    /// # Errors
    /// Why the request can be sent neither now nor later.
    pub(crate) fn submit(
        &mut self,
        request: Request,
        links: &mut Links,
        step: &mut Step,
    ) -> Result<bool, NotSent> {
        match request.refusal(links) {
            Some(error) => Err(error),
            None => Ok(self.begin(request, links, step)),
        }
    }

    /// As [`submit`](Self::submit), but the caller gets the error later.
    pub(super) fn take_in(&mut self, request: Request, links: &mut Links, step: &mut Step) {
        match request.refusal(links) {
            Some(error) => request.end(Err(error.into()), step),
            None => _ = self.begin(request, links, step),
        }
    }

    fn begin(&mut self, request: Request, links: &mut Links, step: &mut Step) -> bool {
        let is_next = self.line(request.kind()).0.is_empty();
        if let Some(expires) = request.expires.filter(|_| !request.has_own_deadline) {
            self.overdue.get_or_insert(expires);
        }
        let can_send = is_next && request.can_be_sent(links);
        let key = self.insert(request);
        match can_send {
            true => self.transmit(key, links, step),
            false => self.enqueue(key),
        }
        can_send
    }

    /// Sends a one-way request if it can be sent now. Returns whether it was sent.
    ///
    /// # Errors
    /// Why the request can be sent neither now nor later.
    pub(crate) fn try_one_way(
        &mut self,
        body: &Body,
        links: &mut Links,
        step: &mut Step,
    ) -> Result<bool, NotSent> {
        if let Some(error) = refusal_of(body, false, false, links) {
            return Err(error);
        }
        let can_send = self.one_ways.0.is_empty() && has_room(links);
        if can_send {
            append_one_way(body, links, step);
        }
        Ok(can_send)
    }

    /// Sends waiting requests, as far as there are places and room.
    pub(crate) fn send_waiting(&mut self, links: &mut Links, step: &mut Step) {
        for kind in [Kind::Call, Kind::List, Kind::OneWay] {
            while let Some((_, &key)) = self.line(kind).0.first_key_value() {
                let Some(kept) = self.kept(key) else { break };
                if !kept.request.can_be_sent(links) {
                    break;
                }
                self.line(kind).0.pop_first();
                self.send(key, links, step);
            }
        }
    }

    /// Whether a request waits for a connection, a place or room.
    pub(crate) fn are_waiting(&self) -> bool {
        !(self.calls.0.is_empty() && self.lists.0.is_empty() && self.one_ways.0.is_empty())
    }

    fn send(&mut self, key: Key, links: &mut Links, step: &mut Step) {
        self.repeatable_no_more(key);
        let Some(kept) = self.kept_mut(key) else { return };
        let expires = kept.request.expires;
        if expires.is_some_and(|expires| expires <= step.now) && kept.request.has_own_deadline {
            return self.end(key, Err(links.out_of_time().into()), step);
        }
        if let Some(error) = kept.request.fault(links) {
            return self.end(key, Err(error.into()), step);
        }
        if let Some(unknown) = kept.unknown_there(links, step.now) {
            return self.end(key, Err(unknown.into()), step);
        }
        self.transmit(key, links, step);
    }

    /// Appends the line of a request. The caller has checked that it can be sent.
    fn transmit(&mut self, key: Key, links: &mut Links, step: &mut Step) {
        let Some(kept) = self.kept_mut(key) else { return };
        let request = &kept.request;
        let Request { cell, caller, expires, .. } = request;
        if matches!(caller, Caller::OneWay(_)) {
            append_one_way(&cell.body, links, step);
            return self.end(key, Ok(Reply::default()), step);
        }
        let id = match links.next_id() {
            Ok(id) => id,
            Err(error) => return self.end(key, Err(error.into()), step),
        };
        let link = &mut links.current;
        let waiter = match caller {
            Caller::List(_) => Waiter::List(key),
            _ => Waiter::Request(key),
        };
        if request.repeats.has_key {
            kept.attempts.get_or_insert_default().on_sent(link.keys, step.now);
        }
        let ttl = expires.filter(|_| request.has_ttl()).map(|expires| step.now.until(expires));
        link.append_request(id, waiter, |out| cell.body.append_to(out, ttl));
        kept.stage = Stage::Sent(link.id, id);
        link.wake_for_line(step);
    }

    /// Takes in the terminal line of a request, or the end of its connection. The request ends, or
    /// is sent again.
    pub(super) fn finish(
        &mut self,
        key: Key,
        result: CallResult,
        links: &mut Links,
        step: &mut Step,
    ) {
        if let Err(error) = &result
            && let Some(kept) = self.kept_mut(key)
            && let Some(pause) = kept.pause_before_repeat(error, links, step.now)
        {
            step.tally().resent += 1;
            let attempts = kept.attempts.get_or_insert_default();
            match error {
                CallError::Unknown(unknown) => attempts.on_unknown(unknown),
                error => attempts.on_not_run(error),
            }
            // While a streamed call is sent, its deadline does not count, so a search may have
            // skipped it.
            let expires = kept.request.expires.filter(|_| !kept.request.has_own_deadline);
            self.overdue = self.overdue.into_iter().chain(expires).min();
            return match pause {
                Duration::ZERO => self.enqueue(key),
                pause => self.pause(key, step.now.after(pause)),
            };
        }
        self.end(key, result, step);
    }

    /// Takes out a call whose reply has arrived. `None` if there is no request with this key, or it
    /// is not a call.
    pub(super) fn take_call(&mut self, key: Key, step: &mut Step) -> Option<Arc<RequestCell>> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        let is_it = |kept: &mut Kept| {
            slot.serial == key.serial && matches!(kept.request.caller, Caller::Call)
        };
        let kept = slot.kept.take_if(is_it)?;
        self.freed(key);
        step.completed += 1;
        Some(kept.request.cell)
    }

    /// Adds an item to a list. Returns whether there was room for it.
    pub(super) fn push_item(&mut self, key: Key, item: &[u8]) -> bool {
        let Some(kept) = self.kept_mut(key) else { return true };
        let Caller::List(list) = &mut kept.request.caller else { return true };
        if list.item_bytes >= MAX_LIST {
            return false;
        }
        list.item_bytes += item.len() + PER_ITEM;
        list.items.push(Bytes::copy_from_slice(item));
        true
    }

    /// The queue of a streamed reply; `None` if the request expects one reply.
    pub(super) fn stream(&self, key: Key) -> Option<&Arc<ItemQueue>> {
        match &self.kept(key)?.request.caller {
            Caller::Stream(items) => Some(items),
            _ => None,
        }
    }

    /// Ends a request with an outcome.
    pub(super) fn end(&mut self, key: Key, result: CallResult, step: &mut Step) {
        let Some(mut kept) = self.remove(key) else { return };
        let result = result.map_err(|error| kept.last(error));
        kept.request.end(result, step);
    }

    /// Ends a request whose deadline has passed. Returns the error that it ends with; `None` if it
    /// has already ended.
    pub(crate) fn give_up(
        &mut self,
        cell: &RequestCell,
        links: &mut Links,
        step: &mut Step,
    ) -> Option<CallError> {
        let error = self.withdraw(cell.key()?, links, step)?;
        self.forget(cell, links, step);
        Some(error)
    }

    /// Ends a request whose caller has gone.
    pub(crate) fn forget(&mut self, cell: &RequestCell, links: &mut Links, step: &mut Step) {
        let Some(key) = cell.key() else { return };
        self.withdraw(key, links, step);
        if let Some(kept) = self.remove(key) {
            step.then(Effect::Forget(kept.request.caller));
        }
    }

    /// Takes a request off its connection. Its place becomes a tombstone, and the server gets a
    /// `/cancel` (guarantee "cancelling is free"). If its line was not offered to the transport, it
    /// is taken back, and no tombstone is left. Returns the error for a request whose deadline has
    /// passed; `None` if the request has already ended.
    fn withdraw(&mut self, key: Key, links: &mut Links, step: &mut Step) -> Option<CallError> {
        let kept = self.kept_mut(key)?;
        let (link, id) = match kept.stage {
            Stage::Sent(link, id) => (link, id),
            Stage::Waiting(_) | Stage::Paused(_) => {
                return Some(kept.last(links.out_of_time().into()));
            }
        };
        let late = kept.last(links.out_of_time().into());
        kept.stage = Stage::Waiting(0);
        let Some(link) = links.link(link) else { return Some(late) };
        if link.take_back(id).is_some() {
            // There is room for others now.
            self.send_waiting(links, step);
            return Some(late);
        }
        let waiter = link.offered_waiter(id);
        let is_list = waiter.as_ref().is_some_and(|waiter| matches!(waiter, Waiter::List(_)));
        if let Some(waiter) = waiter {
            *waiter = if is_list { Waiter::Ignored } else { Waiter::Tombstone };
        }
        // Behind its `/quit` the server reads nothing.
        if !is_list && !matches!(link.state, LinkState::Quitting { .. }) {
            link.append_cancel(id);
            link.wake_for_line(step);
        }
        Some(Unknown::Deadline.into())
    }

    /// As [`give_up`](Self::give_up), but only for a waiting request; `None` if it was sent.
    pub(crate) fn give_up_waiting(
        &mut self,
        cell: &RequestCell,
        links: &mut Links,
        step: &mut Step,
    ) -> Option<CallError> {
        match self.kept(cell.key()?)?.stage {
            Stage::Sent(..) => None,
            Stage::Waiting(_) | Stage::Paused(_) => self.give_up(cell, links, step),
        }
    }

    /// Gives the server credit for `items` more items of a streamed reply, unless the reply has
    /// ended.
    pub(crate) fn give_credit(&mut self, key: Key, items: u64, links: &mut Links, step: &mut Step) {
        let Some(Stage::Sent(link, id)) = self.kept(key).map(|kept| kept.stage) else { return };
        // Behind its `/quit` the server reads nothing.
        let is_closing = links.closing.is_some();
        if let Some(link) = links.link(link).filter(|_| !is_closing) {
            link.grant(id, items);
            link.wake_for_line(step);
        }
    }

    /// Ends the waiting requests, because no request begins any more.
    pub(crate) fn end_waiting(&mut self, error: &ConnectionError, step: &mut Step) {
        self.end_waiting_where(error, step, |_| true);
    }

    /// Ends the waiting requests with `fail_fast`, because there is no connection.
    pub(crate) fn end_impatient(&mut self, error: &ConnectionError, step: &mut Step) {
        self.end_waiting_where(error, step, |request| request.fail_fast);
    }

    fn end_waiting_where(
        &mut self,
        error: &ConnectionError,
        step: &mut Step,
        which: impl Fn(&Request) -> bool,
    ) {
        let waiting =
            self.calls.0.values().chain(self.lists.0.values()).chain(self.one_ways.0.values());
        let all = waiting.copied().chain(self.paused.iter().map(|(_, key)| *key));
        let is_it = |key: &Key| self.kept(*key).is_some_and(|kept| which(&kept.request));
        for key in all.filter(is_it).collect::<Vec<_>>() {
            self.end(key, Err(NotSent::Lost(error.clone()).into()), step);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let first = |times: &BTreeSet<(Time, Key)>| times.first().map(|(at, _)| *at);
        let times = first(&self.paused).into_iter().chain(first(&self.repeatable));
        times.chain(self.overdue).min()
    }

    /// Returns paused requests to their queues, and ends requests whose deadline has passed, or
    /// which may not be sent again any more.
    pub(crate) fn handle_timeout(&mut self, links: &mut Links, step: &mut Step) {
        let now = step.now;
        while let Some((at, key)) = self.repeatable.first().copied().filter(|(at, _)| *at <= now) {
            self.repeatable.remove(&(at, key));
            self.end(key, Err(links.out_of_time().into()), step);
        }
        while let Some((at, key)) = self.paused.first().copied().filter(|(at, _)| *at <= step.now) {
            self.paused.remove(&(at, key));
            self.enqueue(key);
        }
        if self.overdue.is_some_and(|at| at <= step.now) {
            self.end_overdue(links, step);
        }
        self.send_waiting(links, step);
    }

    fn end_overdue(&mut self, links: &mut Links, step: &mut Step) {
        let (mut overdue, mut next) = (Vec::new(), None);
        for (slot, Slot { serial, kept }) in (0..).zip(&self.slots) {
            let Some(expires) = kept.as_ref().and_then(Kept::own_expiry) else { continue };
            match expires <= step.now {
                true => overdue.push((expires, Key { serial: *serial, slot })),
                false => next = next.into_iter().chain([expires]).min(),
            }
        }
        self.overdue = next.map(|next| next.max(step.now.after(SEARCH_PAUSE)));
        overdue.sort_unstable();
        for (_, key) in overdue {
            self.end_late(key, links, step);
        }
    }

    /// Cancels a request that was sent, and ends it with this outcome.
    pub(super) fn cancel_with(
        &mut self,
        key: Key,
        why: Unknown,
        links: &mut Links,
        step: &mut Step,
    ) {
        if self.withdraw(key, links, step).is_some() {
            self.end(key, Err(why.into()), step);
        }
    }

    fn end_late(&mut self, key: Key, links: &mut Links, step: &mut Step) {
        if let Some(error) = self.withdraw(key, links, step) {
            self.end(key, Err(error), step);
        }
    }

    fn insert(&mut self, request: Request) -> Key {
        self.last_serial += 1;
        let serial = self.last_serial;
        let last = || u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let key = Key { serial, slot: self.free.pop().unwrap_or_else(last) };
        request.cell.set_key(key);
        let kept = Some(Kept { request, stage: Stage::Waiting(0), attempts: None });
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) => *slot = Slot { serial, kept },
            None => self.slots.push(Slot { serial, kept }),
        }
        key
    }

    fn remove(&mut self, key: Key) -> Option<Kept> {
        self.take_out_of_line(key);
        let slot = self.slots.get_mut(key.slot as usize)?;
        let kept = slot.kept.take_if(|_| slot.serial == key.serial)?;
        self.freed(key);
        Some(kept)
    }

    /// Frees a slot. Once no request is in the table, the capacity of a burst is given back.
    fn freed(&mut self, key: Key) {
        self.free.push(key.slot);
        if self.free.len() == self.slots.len() && self.slots.len() > FREE_SLOTS {
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Removes a request from its queue, if it waits.
    fn take_out_of_line(&mut self, key: Key) {
        self.repeatable_no_more(key);
        let Some(kept) = self.kept(key) else { return };
        let kind = kept.request.kind();
        match kept.stage {
            Stage::Waiting(ticket) => _ = self.line(kind).0.remove(&ticket),
            Stage::Paused(at) => _ = self.paused.remove(&(at, key)),
            Stage::Sent(..) => {}
        }
    }

    /// A request that may have run waits to be sent again. It may be, because of its key, for some
    /// time.
    fn repeatable_for_now(&mut self, key: Key) {
        if let Some(until) = self.kept(key).and_then(Kept::repeatable_until) {
            self.repeatable.insert((until, key));
        }
    }

    fn repeatable_no_more(&mut self, key: Key) {
        if !self.repeatable.is_empty()
            && let Some(until) = self.kept(key).and_then(Kept::repeatable_until)
        {
            self.repeatable.remove(&(until, key));
        }
    }

    fn kept(&self, key: Key) -> Option<&Kept> {
        let slot = self.slots.get(key.slot as usize)?;
        slot.kept.as_ref().filter(|_| slot.serial == key.serial)
    }

    fn kept_mut(&mut self, key: Key) -> Option<&mut Kept> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        slot.kept.as_mut().filter(|_| slot.serial == key.serial)
    }

    fn enqueue(&mut self, key: Key) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let Some(kept) = self.kept_mut(key) else { return };
        kept.stage = Stage::Waiting(ticket);
        let kind = kept.request.kind();
        self.line(kind).0.insert(ticket, key);
        self.repeatable_for_now(key);
    }

    fn pause(&mut self, key: Key, until: Time) {
        if let Some(kept) = self.kept_mut(key) {
            kept.stage = Stage::Paused(until);
            self.paused.insert((until, key));
            self.repeatable_for_now(key);
        }
    }

    fn line(&mut self, kind: Kind) -> &mut TicketLine {
        match kind {
            Kind::Call => &mut self.calls,
            Kind::List => &mut self.lists,
            Kind::OneWay => &mut self.one_ways,
        }
    }
}

/// The queue of a request: what it needs to be sent.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A place in flight, and room to write.
    Call,
    /// Room for another request of the protocol itself.
    List,
    /// Room to write.
    OneWay,
}

impl Request {
    /// The maximum length of its line. `None` if the request cannot be queued in the intake, or its
    /// attributes are not valid.
    pub(super) fn max_len(&self) -> Option<usize> {
        let Self { cell, caller, has_own_deadline, .. } = self;
        let may_wait = matches!(caller, Caller::Call | Caller::Stream(_)) && !has_own_deadline;
        let fits = may_wait && cell.body.check_head(false).is_ok();
        fits.then(|| cell.body.max_len())
    }

    /// Passes the outcome to the caller.
    fn end(self, result: CallResult, step: &mut Step) {
        match self.caller {
            Caller::Call => {
                step.completed += 1;
                step.then(Effect::Call(self.cell, result));
            }
            Caller::List(list) => {
                let ListCaller { caller, items, .. } = *list;
                step.then(Effect::List(caller, result.map(|_| items)));
            }
            Caller::Stream(items) => {
                let (last, end) = match result {
                    Ok(reply) => (Some(reply.payload).filter(|last| !last.is_empty()), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                step.wake(items.finish(last, end));
            }
            Caller::OneWay(caller) => {
                let sent = result.map(|_| ()).map_err(|error| match error {
                    CallError::NotSent(error) => error,
                    // A one-way request can fail only before it is sent.
                    _ => NotSent::Lost(ConnectionError::Closed),
                });
                step.then(Effect::OneWay(caller, sent));
            }
        }
    }

    fn kind(&self) -> Kind {
        match &self.caller {
            Caller::Call | Caller::Stream(_) => Kind::Call,
            Caller::List(_) => Kind::List,
            Caller::OneWay(_) => Kind::OneWay,
        }
    }

    /// Why it can be sent neither now nor later; `None` if it can.
    fn refusal(&self, links: &Links) -> Option<NotSent> {
        if !matches!(self.caller, Caller::List(_)) {
            let body = &self.cell.body;
            return refusal_of(body, self.has_ttl(), self.fail_fast, links)
                .or_else(|| self.key_fault(links));
        }
        let state = &links.current.state;
        let is_over = state.is_admitted() && !state.takes_controls();
        let down = || state.down().cloned().filter(|_| self.fail_fast);
        let gone = || if is_over { state.refusal() } else { None };
        links.closing.clone().or_else(gone).or_else(down).map(NotSent::Lost)
    }

    /// Why the current server would not accept its line; `None` if it would.
    fn fault(&self, links: &Links) -> Option<NotSent> {
        fault_of(&self.cell.body, self.has_ttl(), links).or_else(|| self.key_fault(links))
    }

    /// Why the current server, if there is one, does not take its key.
    fn key_fault(&self, links: &Links) -> Option<NotSent> {
        links.current.state.max_line()?;
        self.repeats.fault(links.current.keys)
    }

    /// Whether its line has a `ttl`.
    fn has_ttl(&self) -> bool {
        self.has_own_deadline && matches!(self.caller, Caller::Call | Caller::Stream(_))
    }

    fn can_be_sent(&self, links: &Links) -> bool {
        match &self.caller {
            Caller::Call | Caller::Stream(_) => has_room(links) && links.current.has_place(),
            Caller::List(_) => links.current.state.takes_controls() && links.has_room_for_control(),
            Caller::OneWay(_) => has_room(links),
        }
    }
}

/// Why an application request can be sent neither now nor later; `None` if it can.
fn refusal_of(body: &Body, has_ttl: bool, fail_fast: bool, links: &Links) -> Option<NotSent> {
    let down = || links.current.state.down().cloned().filter(|_| fail_fast);
    match links.refusal().or_else(down) {
        Some(error) => Some(NotSent::Lost(error)),
        None => fault_of(body, has_ttl, links),
    }
}

fn fault_of(body: &Body, has_ttl: bool, links: &Links) -> Option<NotSent> {
    let max_line = links.current.state.max_line()?;
    if body.max_len() > max_line {
        return Some(NotSent::TooLarge { max_line });
    }
    body.check_head(has_ttl).err().map(NotSent::Attribute)
}

fn has_room(links: &Links) -> bool {
    matches!(links.current.state, LinkState::Open { .. })
        && links.current.unwritten() < links.config.outbound_bytes
}

fn append_one_way(body: &Body, links: &mut Links, step: &mut Step) {
    links.current.append_one_way(|out| body.append_to(out, None));
    links.current.wake_for_line(step);
    step.tally().one_ways += 1;
}

impl Kept {
    /// Its deadline, if the caller has no timer for it. A streamed reply has no deadline once its
    /// request is sent.
    fn own_expiry(&self) -> Option<Time> {
        let Request { caller, has_own_deadline, expires, .. } = &self.request;
        let has_no_limit = match (caller, &self.stage) {
            (Caller::Stream(_), Stage::Sent(..)) => true,
            _ => *has_own_deadline,
        };
        expires.filter(|_| !has_no_limit)
    }

    /// The outcome of a request over all attempts, of which the last one ended with `error`.
    fn last(&mut self, error: CallError) -> CallError {
        match &mut self.attempts {
            Some(attempts) => attempts.outcome(error),
            None => error,
        }
    }

    /// The outcome of a request that may have run, and that must not be sent on the current
    /// connection: only its first server knows its key.
    fn unknown_there(&self, links: &Links, now: Time) -> Option<Unknown> {
        let attempts = self.attempts.as_ref().filter(|_| !self.request.repeats.is_idempotent);
        attempts.and_then(|attempts| attempts.fault(links.current.keys, now))
    }

    /// Until when a request that may have run may be sent again; `None` if that has no end, or if
    /// it has not run.
    fn repeatable_until(&self) -> Option<Time> {
        let attempts = self.attempts.as_ref().filter(|_| !self.request.repeats.is_idempotent);
        attempts.and_then(|attempts| attempts.until())
    }

    /// The pause before a request that ended with `error` is sent again. `None` if the client must
    /// not repeat it, or its deadline would pass first (docs/protocol/calls.md, section 12).
    fn pause_before_repeat(
        &mut self,
        error: &CallError,
        links: &Links,
        now: Time,
    ) -> Option<Duration> {
        let Stage::Sent(link, _) = self.stage else { return None };
        if self.request.fail_fast || links.refusal().is_some() || self.has_begun() {
            return None;
        }
        let pause = match error {
            CallError::NotSent(NotSent::Lost(_)) => Duration::ZERO,
            CallError::Unknown(unknown) if self.may_repeat(unknown, now) => match unknown {
                Unknown::Cut(_) if !links.has_moved_on_from(link) => self.next_pause(links),
                _ => Duration::ZERO,
            },
            CallError::Refused { reason, retry: None } if reason.code == Code::CLOSING => {
                // On another connection it is sent at once. If the server refused it without having
                // sent `/bye`, the client pauses, so that it does not flood the server.
                match links.reconnects {
                    false => return None,
                    true if links.has_moved_on_from(link) => Duration::ZERO,
                    true => self.next_pause(links),
                }
            }
            CallError::Refused { retry: Some(hint), .. } => {
                hint.saturating_add(self.next_pause(links))
            }
            _ => return None,
        };
        let is_late = self.request.expires.is_some_and(|expires| now.after(pause) >= expires);
        (!is_late).then_some(pause)
    }

    /// Whether an item has arrived. The handler has run then, even if the server refuses the
    /// request afterwards.
    fn has_begun(&self) -> bool {
        matches!(&self.request.caller, Caller::Stream(items) if items.has_begun())
    }

    /// Whether the request may be sent again although it may have run.
    fn may_repeat(&self, unknown: &Unknown, now: Time) -> bool {
        self.request.repeats.allows(unknown, self.attempts.as_deref(), now)
    }

    fn next_pause(&mut self, links: &Links) -> Duration {
        self.attempts
            .get_or_insert_default()
            .times
            .pause(links.backoff(), links.config.random.next_u64())
    }
}

//! What a client's handles and its connections share: one short lock over the links, and the gates
//! before it.

use std::{fmt, pin::pin, task::Waker, time::Duration};

use tokio::sync::{Notify, Semaphore};

use crate::{
    client::{
        body::Body,
        config::ClientConfig,
        event::{ConnectionEvent, Events},
        flow::Flow,
        link::{Link, LinkId, SendError, Withdrawn},
        phase::{Phase, Phases},
        stats::{ClientStats, Counters, Tally},
        topics::{Told, Topics},
        waiter::{CallResult, Waiter},
    },
    error::{CallError, ConnectionError, NotSent},
    protocol::{Hello, Position, RequestId, Topic},
    sync::{Arc, Mutex, oneshot},
};

pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    /// Whether another connection follows upon one that is over.
    pub(crate) reconnects: bool,
    /// Whether somebody connects, and says when all is over; else it is over with its connection.
    pub(crate) is_supervised: bool,
    /// Lock order: `topics` before `state`.
    pub(crate) topics: Mutex<Topics>,
    pub(crate) state: Mutex<State>,
    /// An outbound buffer went below its mark, or a link changed.
    pub(crate) drained: Notify,
    /// For whoever connects: this side closes, or a link is gone.
    pub(crate) news: Notify,
    pub(crate) phase: Phases,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
}

/// A request that was appended.
pub(crate) struct Begun {
    pub(crate) id: RequestId,
    /// Where.
    pub(crate) link: LinkId,
    /// To be woken once no lock is held.
    pub(crate) driver: Option<Waker>,
}

/// **Invariant:** no waker is woken, no one-shot sent and no user code run while it is locked.
pub(crate) struct State {
    /// Where what is new is begun: the connection, or, shut, the next one.
    current: Link,
    /// Connections whose servers are about to go: what is under way there goes on.
    leaving: Vec<Link>,
    /// Ids rise over all connections, so that each names one request of this client for good, and no
    /// handle needs to know on which connection its own was sent.
    last_id: u64,
    /// Why nothing is taken any more.
    refusing: Option<ConnectionError>,
    /// This side closes: it quits, and waits only so long.
    closing: bool,
    /// Why there is no connection, after there was one, or was to be.
    down: Option<ConnectionError>,
    /// One-way lines of the application's that no connection was offered.
    carried: Vec<u8>,
}

impl State {
    fn new() -> Self {
        Self {
            current: Link::new(LinkId::default()),
            leaving: Vec::new(),
            last_id: 0,
            refusing: None,
            closing: false,
            down: None,
            carried: Vec::new(),
        }
    }

    /// Whether this side closes.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The link of a driver, until it is over.
    pub(crate) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        if self.current.id == id {
            return Some(&mut self.current);
        }
        self.leaving.iter_mut().find(|link| link.id == id)
    }

    /// The link on which a request waits for its terminal line.
    fn link_of(&mut self, id: RequestId) -> Option<&mut Link> {
        let mut links = std::iter::once(&mut self.current).chain(&mut self.leaving);
        links.find(|link| link.pending.has(id.get()))
    }

    /// The link on which something new can be begun now.
    fn gate(&mut self) -> Result<&mut Link, SendError> {
        match self.refusal() {
            Some(error) => Err(SendError::Refused(NotSent::Lost(error.clone()))),
            None => self.protocol_gate(),
        }
    }

    /// The same for what a server that is about to go still takes.
    fn protocol_gate(&mut self) -> Result<&mut Link, SendError> {
        if let Some(error) = self.refusing.as_ref().or(self.current.refusing()) {
            return Err(SendError::Refused(NotSent::Lost(error.clone())));
        }
        match self.current.is_open() {
            true => Ok(&mut self.current),
            false => Err(SendError::NoPlace),
        }
    }

    /// Why nothing is begun any more, ever; `None` while it is, or will be.
    fn refusal(&self) -> Option<&ConnectionError> {
        self.refusing.as_ref().or(self.current.refusal())
    }

    fn next_id(&mut self) -> Result<RequestId, NotSent> {
        let exhausted = || NotSent::Lost(ConnectionError::Protocol("ids are used up".into()));
        let id = RequestId::new(self.last_id + 1).ok_or_else(exhausted)?;
        self.last_id += 1;
        Ok(id)
    }

    /// Takes the current link out, and shuts the gate before its successor.
    fn replace_current(&mut self) -> Link {
        let next = Link::new(self.current.id.next());
        std::mem::replace(&mut self.current, next)
    }

    /// Takes out a link that is over; whether it was the current one.
    fn take_link(&mut self, id: LinkId) -> Option<(Link, bool)> {
        if self.current.id == id {
            return Some((self.replace_current(), true));
        }
        let at = self.leaving.iter().position(|link| link.id == id)?;
        Some((self.leaving.remove(at), false))
    }

    /// Takes one-way lines for the next connection, or for the one there is; how many of them are too
    /// long for that, and its driver to wake.
    fn carry(&mut self, lines: &[u8]) -> (u64, Option<Waker>) {
        if self.current.is_open() {
            return self.current.append_carried(lines);
        }
        self.carried.extend_from_slice(lines);
        (0, None)
    }

    /// What a link needs to quit; one whose server has not said hello quits once it is open. Without an
    /// id left to quit with, the driver's bound on closing ends it. The driver to wake.
    fn quit(&mut self, id: LinkId) -> Option<Waker> {
        let link = self.link(id)?;
        if !link.is_open() {
            return link.take_driver();
        }
        let quit = self.next_id();
        let link = self.link(id)?;
        let appended = match quit {
            Ok(id) if link.refusing().is_none() => {
                link.append_control(id, Waiter::Quit, format_args!("/quit"), format_args!(""))
            }
            _ => None,
        };
        link.refuse(ConnectionError::Closed);
        appended.or_else(|| link.take_driver())
    }
}

impl Shared {
    /// What the handles of one connection share that is there already.
    pub(crate) fn of_one(config: ClientConfig) -> Self {
        Self::new(config, false, false)
    }

    /// What handles share with whoever connects for them.
    pub(crate) fn supervised(config: ClientConfig, reconnects: bool) -> Self {
        Self::new(config, reconnects, true)
    }

    fn new(config: ClientConfig, reconnects: bool, is_supervised: bool) -> Self {
        Self {
            config,
            reconnects,
            is_supervised,
            topics: Mutex::default(),
            state: Mutex::new(State::new()),
            drained: Notify::new(),
            news: Notify::new(),
            phase: Phases::new(),
            events: Events::default(),
            counters: Counters::default(),
        }
    }

    /// The link of the connection to come.
    pub(crate) fn next_link(&self) -> LinkId {
        self.state.lock().current.id
    }

    /// The server's hello is there, and it knows who this is: opens the gates. Subscriptions go on
    /// before anything else does.
    pub(crate) fn open(&self, id: LinkId, hello: Hello, told: &mut Told) {
        let places = self.config.in_flight.min(hello.in_flight);
        let mut state = self.state.lock();
        let Some(link) = state.link(id) else { return };
        link.open(&hello, places);
        let semaphore = link.places.clone();
        state.down = None;
        let carried = std::mem::take(&mut state.carried);
        // The driver is running: it writes next, and needs no waking.
        let (dropped, unused) = state.current.append_carried(&carried);
        let unused = unused.or(if state.closing { state.quit(id) } else { None });
        drop(state);
        drop(unused);
        self.topics.lock().connected(self, told);
        semaphore.add_permits(places);
        self.counters.fold(&mut Tally { connections: 1, ..Tally::default() });
        self.events.emit(ConnectionEvent::Connected(hello.clone()));
        self.report_dropped(dropped);
        self.phase.replace(Phase::Open(hello));
    }

    /// The places of the connection there is, or of the next.
    ///
    /// # Errors
    /// When nothing is begun any more; or, for who does not want to wait, when there is no connection.
    pub(crate) fn places(&self, fail_fast: bool) -> Result<Arc<Semaphore>, NotSent> {
        let state = self.state.lock();
        let down = state.down.as_ref().filter(|_| fail_fast);
        match state.refusal().or(down) {
            Some(error) => Err(NotSent::Lost(error.clone())),
            None => Ok(state.current.places.clone()),
        }
    }

    /// Whether `id` was sent on a connection that nothing new is begun on any more, while something
    /// may be on another.
    pub(crate) fn has_moved_on_from(&self, id: RequestId) -> bool {
        let state = self.state.lock();
        state.refusal().is_none() && !state.current.knows(id.get())
    }

    /// Appends an application request. It takes a place in flight, or has the one that is `held`, and
    /// keeps it until its terminal line.
    pub(crate) fn send_call(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        held: Option<&Arc<Semaphore>>,
    ) -> Result<(RequestId, oneshot::Receiver<CallResult>), SendError> {
        let (sender, receiver) = oneshot::channel();
        let id = self.send_request(body, ttl, held, Waiter::Call(sender))?;
        Ok((id, receiver))
    }

    /// As [`send_call`](Self::send_call), for a streamed reply that may be `window` items ahead.
    pub(crate) fn send_stream(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        held: Option<&Arc<Semaphore>>,
        window: u64,
    ) -> Result<(RequestId, Arc<Flow>), SendError> {
        let flow = Arc::new(Flow::new(window));
        let id = self.send_request(body, ttl, held, Waiter::Stream(flow.clone()))?;
        Ok((id, flow))
    }

    fn send_request(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        held: Option<&Arc<Semaphore>>,
        waiter: Waiter,
    ) -> Result<RequestId, SendError> {
        let mut state = self.state.lock();
        let link = state.gate()?;
        link.check(body, ttl, self.config.outbound_bytes)?;
        match held {
            // A place on a connection that is over is none.
            Some(held) if !Arc::ptr_eq(held, &link.places) => return Err(SendError::NoPlace),
            Some(_) => {}
            None => link.places.try_acquire().map_err(|_| SendError::NoPlace)?.forget(),
        }
        let id = state.next_id().map_err(SendError::Refused)?;
        let driver = state.current.append_request(id, body, ttl, waiter);
        drop(state);
        wake(driver);
        Ok(id)
    }

    /// Lets the server send `items` more of the streamed reply `id`, unless that is over. Each such
    /// line follows upon as many items taken, so there are never many.
    pub(crate) fn give_credit(&self, id: RequestId, items: u64) {
        let mut state = self.state.lock();
        // Behind its `/quit`, no server reads.
        if state.closing {
            return;
        }
        let Some(link) = state.link_of(id) else { return };
        if !link.pending.get_mut(id.get()).is_some_and(|entry| entry.waiter.is_stream()) {
            return;
        }
        let driver = link.append_notice(format_args!("/more"), format_args!("{id} {items}"));
        drop(state);
        wake(driver);
    }

    /// Appends a one-way request.
    pub(crate) fn send_one_way(&self, body: &Body) -> Result<(), SendError> {
        let mut state = self.state.lock();
        let link = state.gate()?;
        link.check(body, None, self.config.outbound_bytes)?;
        let driver = link.append_one_way(body);
        drop(state);
        wake(driver);
        self.counters.fold(&mut Tally { one_ways: 1, ..Tally::default() });
        Ok(())
    }

    /// What was counted, and what is under way.
    pub(crate) fn stats(&self) -> ClientStats {
        let state = self.state.lock();
        let requests = state.last_id;
        let links = || std::iter::once(&state.current).chain(&state.leaving);
        let pending = links().map(|link| link.pending.len()).sum();
        let in_flight = links().map(Link::in_flight).sum();
        drop(state);
        ClientStats { requests, pending, in_flight, ..self.counters.stats() }
    }

    /// Appends a request of the protocol's own that begins something, on the connection there is.
    pub(crate) fn begin_control(
        &self,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Result<Begun, SendError> {
        let mut state = self.state.lock();
        match waiter {
            Waiter::Subscribe(_) => state.gate()?,
            _ => state.protocol_gate()?,
        };
        let id = state.next_id().map_err(SendError::Refused)?;
        let link = &mut state.current;
        Ok(Begun { id, link: link.id, driver: link.append_control(id, waiter, head, arguments) })
    }

    /// Appends a request of the protocol's own that goes on with something, on the connection that it
    /// is about, whatever else waits: there are few, each bounded by what it is about. `None` once
    /// that connection takes no line any more; else the driver to wake, if there is one.
    pub(crate) fn send_control(
        &self,
        link: LinkId,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Option<Option<Waker>> {
        let mut state = self.state.lock();
        let is_open = |link: &&mut Link| link.is_open() && link.refusing().is_none();
        state.link(link).filter(is_open)?;
        let id = state.next_id().ok()?;
        Some(state.link(link)?.append_control(id, waiter, head, arguments))
    }

    /// Takes an id for one of the lines that precede all others on a connection.
    pub(crate) fn first_id(&self, link: LinkId, waiter: Waiter) -> Option<RequestId> {
        let mut state = self.state.lock();
        let id = state.next_id().ok()?;
        state.link(link)?.expect_reply(id, waiter);
        Some(id)
    }

    /// There are acks to be written. The driver writes them itself, one per topic, when it writes
    /// next: so they do not pile up while the server does not read. The driver to wake.
    pub(crate) fn announce_acks(&self, link: LinkId) -> Option<Waker> {
        self.state.lock().link(link)?.announce_acks()
    }

    /// Appends `* /ack TOPIC POSITION`, unless this side closes: a server that has drawn the line may
    /// have the last of a log to deliver. The driver to wake, if it is not the caller.
    pub(crate) fn append_ack(
        &self,
        link: LinkId,
        topic: &Topic,
        position: Position,
    ) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.closing {
            return None;
        }
        let (head, arguments) = (format_args!("/ack"), format_args!("{topic} {position}"));
        state.link(link)?.append_notice(head, arguments)
    }

    /// The caller of `id` is gone: its place becomes a tombstone, and the server is told (R5). What was
    /// not offered to it is taken back, and leaves nothing: whether that is so.
    pub(crate) fn cancel(&self, id: RequestId) -> bool {
        let mut state = self.state.lock();
        let Some(link) = state.link_of(id) else { return false };
        if let Some(entry) = link.take_back(id) {
            let places = link.places.clone();
            drop(state);
            places.add_permits(usize::from(entry.waiter.holds_place()));
            self.drained.notify_waiters();
            return true;
        }
        // The one-shot leaves the table under the lock, and its receiver is gone: nobody is woken.
        if link.pending.get_mut(id.get()).is_some_and(|entry| entry.cancel()) {
            let driver = link.append_cancel(id);
            drop(state);
            wake(driver);
        }
        false
    }

    /// Takes nothing new, for this reason, lets the servers finish what they have, and ends.
    pub(crate) fn begin_close(&self, why: ConnectionError) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closing, true) {
            return;
        }
        state.refusing.get_or_insert(why);
        let links = std::iter::once(&state.current).chain(&state.leaving);
        let links: Vec<_> = links.map(|link| link.id).collect();
        let drivers: Vec<_> = links.into_iter().map(|link| state.quit(link)).collect();
        let places = state.current.places.clone();
        drop(state);
        drivers.into_iter().for_each(wake);
        places.close();
        self.drained.notify_waiters();
        self.news.notify_one();
    }

    /// Quits a server that has said goodbye, if nothing is under way there any more: it need not wait for
    /// this client then. Whether it does.
    pub(crate) fn quit_if_idle(&self, id: LinkId) -> bool {
        let topics = self.topics.lock();
        let mut state = self.state.lock();
        let is_idle = |link: &&mut Link| link.is_idle() && link.refusing().is_none();
        if topics.has_any_on(id) || state.link(id).filter(is_idle).is_none() {
            return false;
        }
        // The driver is running: it writes next, and needs no waking.
        let unused = state.quit(id);
        drop(state);
        drop(topics);
        drop(unused);
        true
    }

    /// Whether the server owes anything. One that goes away, or is left, is another matter: it need
    /// not answer what is new.
    pub(crate) fn awaits(&self, link: LinkId) -> bool {
        let has_topics = self.topics.lock().has_any_on(link);
        let mut state = self.state.lock();
        let link = state.link(link).filter(|link| link.refusing().is_none());
        link.is_some_and(|link| has_topics || link.pending.len() > 0)
    }

    /// Whether the server may leave a probe unread although it is well.
    pub(crate) fn may_be_held_up(&self, link: LinkId) -> bool {
        self.state.lock().link(link).is_some_and(|link| link.may_be_held_up())
    }

    /// Waits until there is room to write, or nothing is begun any more.
    pub(crate) async fn room(&self) {
        loop {
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.state.lock().current.has_room(self.config.outbound_bytes) {
                return;
            }
            drained.await;
        }
    }

    /// Whether a line was appended on this connection, ever.
    pub(crate) fn has_spoken(&self, link: LinkId) -> bool {
        self.state.lock().link(link).is_some_and(|link| link.has_spoken())
    }

    /// Whether this side closes.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Whether this connection is the one on which what is new is begun.
    pub(crate) fn is_current(&self, link: LinkId) -> bool {
        self.state.lock().current.id == link
    }

    /// Why nothing is begun any more, ever; `None` while it is, or will be.
    pub(crate) fn refusal_error(&self) -> Option<ConnectionError> {
        self.state.lock().refusal().cloned()
    }

    /// Why there is no connection at present, where there was to be one.
    pub(crate) fn down(&self) -> Option<ConnectionError> {
        self.state.lock().down.clone()
    }

    /// Nothing new is begun on this connection: its server is about to go, and takes the protocol's
    /// own requests till then. What is new waits for another connection, where there will be one.
    pub(crate) fn leave(&self, id: LinkId, error: ConnectionError) {
        self.turn_from(id, |link| {
            link.leave(error);
            Withdrawn::default()
        });
    }

    /// No line is taken on this connection any more: its server has drawn the line. What was not
    /// offered to it is for another connection, where there will be one.
    pub(crate) fn refuse(&self, id: LinkId, error: ConnectionError) {
        let withdraws = self.reconnects;
        let withdrawn = self.turn_from(id, |link| {
            link.refuse(error.clone());
            if withdraws { link.withdraw() } else { Withdrawn::default() }
        });
        let mut told = Told::default();
        for waiter in withdrawn {
            match waiter {
                Waiter::Subscribe(topic) | Waiter::Unsubscribe(topic) => {
                    self.topics.lock().move_on(self, id, &topic, &mut told);
                }
                waiter => waiter.fail(NotSent::Lost(error.clone()).into()),
            }
        }
        told.tell(self);
    }

    /// Does `what` to a link on which nothing is begun any more, and moves on to the next.
    fn turn_from(&self, id: LinkId, what: impl FnOnce(&mut Link) -> Withdrawn) -> Vec<Waiter> {
        let mut state = self.state.lock();
        let Some(link) = state.link(id) else { return Vec::new() };
        let Withdrawn { waiters, one_ways } = what(link);
        let places = link.places.clone();
        let moves_on = self.reconnects && state.current.id == id;
        if moves_on {
            let left = state.replace_current();
            state.down = left.refusal().cloned();
            state.leaving.push(left);
        }
        let (dropped, driver) = state.carry(&one_ways);
        let is_closing = state.closing;
        drop(state);
        wake(driver);
        self.report_dropped(dropped);
        places.close();
        self.drained.notify_waiters();
        if moves_on && !is_closing {
            self.phase.replace(Phase::Connecting);
        }
        self.news.notify_one();
        waiters
    }

    /// A connection is over: everybody who waits on it gets the outcome that can be proven, and its
    /// subscriptions wait for the next one; or, without a next one, all is over.
    ///
    /// `last` is the id above which the server said it executes nothing.
    pub(crate) fn lose(&self, id: LinkId, error: &ConnectionError, last: Option<u64>) {
        let mut state = self.state.lock();
        if !self.is_supervised {
            state.refusing.get_or_insert_with(|| error.clone());
            state.closing = true;
        }
        let Some((link, was_current)) = state.take_link(id) else { return };
        if was_current {
            state.down = Some(error.clone());
        }
        let carries = self.reconnects && !state.closing;
        let one_ways = if carries { link.one_ways() } else { Vec::new() };
        let (dropped, driver) = state.carry(&one_ways);
        let is_closing = state.closing;
        drop(state);
        wake(driver);
        self.report_dropped(dropped);
        link.places.close();
        self.drained.notify_waiters();
        for (waiter, failure) in link.dissolve(error, last) {
            match (waiter, failure) {
                (Waiter::Subscribe(_), CallError::NotSent(_)) => {}
                (Waiter::Subscribe(topic), failure) => self.topics.lock().failed(&topic, &failure),
                (waiter, failure) => waiter.fail(failure),
            }
        }
        if !self.is_supervised {
            return self.finish(error);
        }
        if was_current && !is_closing {
            self.phase.replace(Phase::Connecting);
        }
        let mut told = Told::default();
        self.topics.lock().disconnected(self, id, &mut told);
        told.tell(self);
        self.news.notify_one();
    }

    fn report_dropped(&self, one_ways: u64) {
        if one_ways > 0 {
            self.events.emit(ConnectionEvent::OneWaysDropped(one_ways));
        }
    }

    /// There is no next connection: all is over.
    pub(crate) fn end(&self, error: &ConnectionError) {
        let mut state = self.state.lock();
        state.refusing.get_or_insert_with(|| error.clone());
        state.closing = true;
        let places = state.current.places.clone();
        drop(state);
        places.close();
        self.drained.notify_waiters();
        self.finish(error);
    }

    fn finish(&self, error: &ConnectionError) {
        let told = self.topics.lock().end(error);
        told.tell(self);
        // Who asks for events from here on is told that there are none to come.
        let has_ended = self.phase.end(error);
        if has_ended {
            self.events.emit(ConnectionEvent::Ended(error.clone()));
        }
    }
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

//! What a client's handles and its connection share: one short lock over the outbound lines and the
//! pending calls, and the gates before it.

use std::{fmt, pin::pin, task::Waker, time::Duration};

use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    client::{
        admission::AUTH_ID,
        config::ClientConfig,
        event::{ConnectionEvent, Events},
        flow::Flow,
        pending::Pending,
        stats::{ClientStats, Counters, Tally},
        topics::Topics,
        waiter::{CallResult, Entry, Waiter},
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{
        AttributeList, Attributes, Code, DEFAULT_MAX_LINE, Hello, InvalidAttribute, Mark, Position,
        Reason, RequestId, Topic, VERSION, Word, encode,
    },
    sync::{Arc, Mutex, oneshot},
};

/// The longest `ID SP` a request begins with.
const MARK_BYTES: usize = 17;
/// The longest `;ttl=`.
const TTL_BYTES: usize = 21;
/// With so many bytes in flight a server may have reached its limit on payload, which it does not
/// announce: a quarter of what is usual.
const HEAVY: usize = 1024 * 1024;

pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    /// Lock order: `topics` before `state`.
    pub(crate) topics: Mutex<Topics>,
    pub(crate) state: Mutex<State>,
    /// Places in flight: none before the server's hello, none after the end.
    pub(crate) places: Semaphore,
    /// The outbound buffer went below its mark.
    pub(crate) drained: Notify,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
}

/// Where a connection stands.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Handshake,
    Open(Hello),
    Ended(ConnectionError),
}

/// A line under an id that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// The request had its terminal line before.
    Doubled,
    /// No request with this id was sent.
    Unasked,
}

/// **Invariant:** no waker is woken, no one-shot sent and no user code run while it is locked.
pub(crate) struct State {
    /// Whole lines that wait to be written.
    out: Vec<u8>,
    /// Length of the outbound stream up to the end of `out`.
    appended: u64,
    /// Length of the outbound stream up to what was offered to the transport.
    offered: u64,
    /// Length of the outbound stream up to which the server is known to have read: it takes lines in
    /// order, and has answered this one.
    read: u64,
    /// Length of the outbound stream up to the end of the last line that needs a place.
    last_placed: u64,
    /// The same of the last one-way, which is not among the pending.
    last_one_way: u64,
    pub(crate) pending: Pending<Entry>,
    /// Ids are given out without holes, but for those in `unused`.
    last_id: u64,
    /// Ids kept free for the first lines, and not sent.
    unused: Vec<u64>,
    /// Places in flight that the server's hello has opened.
    places: usize,
    /// Places in flight that it announced.
    announced: usize,
    /// The longest line the server takes, once it has said so.
    max_line: Option<usize>,
    /// Why nothing new is taken.
    refusing: Option<ConnectionError>,
    /// Why no application request and no subscription is begun here any more: the server is about
    /// to go. What is under way goes on, and the protocol's own requests with it.
    leaving: Option<ConnectionError>,
    /// This side closes: it quits, and waits only so long.
    closing: bool,
    /// The driver, while it waits.
    driver: Option<Waker>,
    /// The driver waits for the transport to take more: a further line is no news to it.
    is_writing: bool,
    /// Somebody waits for `drained`.
    blocked: bool,
    /// Topics have acks for the driver to write.
    acks_due: bool,
}

/// A request's line, all but its id and its deadline.
pub(crate) struct Body {
    /// Word and rest, and the LF.
    bytes: Vec<u8>,
    /// Where in `bytes` the attributes go.
    word_len: usize,
    pub(crate) attributes: AttributeList,
}

impl Body {
    pub(crate) fn new(word: Word<'_>, rest: &[u8]) -> Self {
        let word_len = word.as_str().len();
        let mut bytes = Vec::with_capacity(word_len + rest.len() + 2);
        encode::body(&mut bytes, word, Attributes::NONE, rest);
        Self { bytes, word_len, attributes: AttributeList::new() }
    }

    /// The longest line it makes.
    fn max_len(&self) -> usize {
        MARK_BYTES + self.bytes.len() + self.attributes.as_attributes().as_str().len() + TTL_BYTES
    }

    /// Whether the attributes fit into the head, with the longest id, and deadline, there are.
    fn check_head(&self, has_ttl: bool) -> Result<(), InvalidAttribute> {
        if self.attributes.as_attributes().is_empty() {
            return Ok(());
        }
        let ttl = if has_ttl { TTL_BYTES } else { 0 };
        self.attributes.fit(MARK_BYTES + self.word_len + ttl, usize::from(has_ttl))
    }

    fn append_to(&self, out: &mut Vec<u8>, ttl: Option<Duration>) {
        let attributes = self.attributes.as_attributes();
        if ttl.is_none() && attributes.is_empty() {
            return out.extend_from_slice(&self.bytes);
        }
        let (word, behind) = self.bytes.split_at(self.word_len);
        out.extend_from_slice(word);
        out.extend_from_slice(attributes.as_str().as_bytes());
        if let Some(ttl) = ttl {
            out.extend_from_slice(b";ttl=");
            encode::number(out, millis_rounded_up(ttl));
        }
        out.extend_from_slice(behind);
    }
}

/// A deadline never becomes shorter on the wire than it is here, and never 0.
fn millis_rounded_up(ttl: Duration) -> u64 {
    let millis = ttl.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).clamp(1, crate::protocol::MAX_NUMBER)
}

/// Why a line could not be appended.
pub(crate) enum SendError {
    /// The outbound buffer is over its mark: wait until it is drained.
    Full,
    /// The server has not said hello, and with it how long a line may be.
    Early,
    Refused(NotSent),
}

impl State {
    /// Whether this side closes the connection.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let before = self.out.len();
        write(&mut self.out);
        self.appended += (self.out.len() - before) as u64;
        self.appended
    }

    fn next_id(&mut self) -> Result<RequestId, NotSent> {
        let exhausted = || NotSent::Lost(ConnectionError::Protocol("ids are used up".into()));
        let id = RequestId::new(self.last_id + 1).ok_or_else(exhausted)?;
        self.last_id += 1;
        Ok(id)
    }

    fn check(
        &mut self,
        body: &Body,
        ttl: Option<Duration>,
        outbound_bytes: usize,
    ) -> Result<(), SendError> {
        if let Some(error) = self.refusal() {
            return Err(SendError::Refused(NotSent::Lost(error.clone())));
        }
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

    /// Whether nobody has to wait for `drained`; who asks does if not.
    fn has_room(&mut self, outbound_bytes: usize) -> bool {
        let is_full = self.out.len() >= outbound_bytes && self.refusal().is_none();
        self.blocked |= is_full;
        !is_full
    }

    /// Why nothing is begun any more; `None` while it is.
    fn refusal(&self) -> Option<&ConnectionError> {
        self.refusing.as_ref().or(self.leaving.as_ref())
    }

    /// Takes out who waits for `id`. Nobody waits for a reply to what was never sent.
    pub(crate) fn complete(&mut self, id: RequestId) -> Result<Entry, Stray> {
        let Some(entry) = self.pending.complete(id.get()) else {
            return Err(self.stray(id));
        };
        if entry.line_end <= self.offered {
            self.read = self.read.max(entry.line_end);
            return Ok(entry);
        }
        self.pending.insert(id.get(), entry);
        Err(Stray::Unasked)
    }

    /// Who waits for `id`, if its line was offered to the transport.
    pub(crate) fn offered_waiter(&mut self, id: RequestId) -> Option<&mut Waiter> {
        let entry = self.pending.get_mut(id.get())?;
        (entry.line_end <= self.offered).then_some(&mut entry.waiter)
    }

    /// What a line under `id` is that has no entry, or one whose line was not offered. An entry stays
    /// until its terminal line, as a tombstone if need be, and ids rise without holes: so nothing
    /// has to be remembered of those that are over.
    pub(crate) fn stray(&self, id: RequestId) -> Stray {
        let id = id.get();
        let was_sent = id <= self.last_id && !self.unused.contains(&id) && !self.pending.has(id);
        if was_sent { Stray::Doubled } else { Stray::Unasked }
    }

    /// Whether the server may have a reason to leave a line unread: one before it that waits for a
    /// place, or for payload in flight to become less (PROTOCOL.md, section 7.5). It has none for
    /// what stands behind the last line that it is known to have read, unless that needs a place.
    fn may_be_held_up(&self) -> bool {
        if self.last_placed <= self.read {
            return false;
        }
        let held = self.pending.iter().filter(|entry| entry.waiter.holds_place());
        let (places, bytes) =
            held.fold((0, 0), |(places, bytes), entry| (places + 1, bytes + entry.bytes));
        // Calls alone are held back on this side.
        bytes >= HEAVY || (places >= self.announced && self.last_one_way > self.read)
    }

    /// An id that was kept free is used.
    pub(crate) fn use_id(&mut self, id: u64) {
        self.unused.retain(|&unused| unused != id);
    }

    /// Takes what waits to be written, which counts as offered from here on.
    pub(crate) fn take_outbound(&mut self, buffer: &mut crate::io::WriteBuffer) -> bool {
        buffer.refill(&mut self.out);
        self.offered = self.appended;
        std::mem::take(&mut self.blocked)
    }

    /// The driver to wake for a new line.
    fn reader_of_lines(&mut self) -> Option<Waker> {
        if self.is_writing { None } else { self.driver.take() }
    }

    /// Whether there are acks to be written; whoever asks writes them.
    pub(crate) fn take_acks_due(&mut self) -> bool {
        std::mem::take(&mut self.acks_due)
    }

    pub(crate) fn has_outbound(&self) -> bool {
        !self.out.is_empty()
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
}

impl Shared {
    pub(crate) fn new(config: ClientConfig) -> Self {
        let state = State {
            out: Vec::new(),
            appended: 0,
            offered: 0,
            read: 0,
            last_placed: 0,
            last_one_way: 0,
            pending: Pending::default(),
            last_id: 0,
            unused: Vec::new(),
            places: 0,
            announced: 0,
            max_line: None,
            refusing: None,
            leaving: None,
            closing: false,
            driver: None,
            is_writing: false,
            blocked: false,
            acks_due: false,
        };
        Self {
            config,
            topics: Mutex::default(),
            state: Mutex::new(state),
            places: Semaphore::new(0),
            drained: Notify::new(),
            phase: watch::Sender::new(Phase::Handshake),
            events: Events::default(),
            counters: Counters::default(),
        }
    }

    /// Tells the server of a line limit that is not the default. A client that may have to say who
    /// it is waits with that: see [`admission`](super::admission).
    pub(crate) fn say_hello(&self) {
        let max_line = self.config.max_line;
        if !self.config.auth.is_empty() {
            let mut state = self.state.lock();
            state.last_id = AUTH_ID;
            state.unused = (1..=AUTH_ID).collect();
            return;
        }
        if max_line != DEFAULT_MAX_LINE {
            let head = format_args!("/hello;version={VERSION};max-line={max_line}");
            let _ = self.send_control(Waiter::Hello, head, format_args!(""));
        }
    }

    /// The server's hello is there: opens the gates.
    pub(crate) fn open(&self, hello: Hello) {
        let places = self.config.in_flight.min(hello.in_flight);
        let mut state = self.state.lock();
        (state.max_line, state.places) = (Some(hello.max_line), places);
        state.announced = hello.in_flight;
        drop(state);
        self.places.add_permits(places);
        self.events.emit(ConnectionEvent::Connected(hello.clone()));
        self.phase.send_replace(Phase::Open(hello));
    }

    /// Appends an application request. The caller holds a place in flight, and keeps it until the
    /// terminal line.
    pub(crate) fn send_call(
        &self,
        body: &Body,
        ttl: Option<Duration>,
    ) -> Result<(RequestId, oneshot::Receiver<CallResult>), SendError> {
        let (sender, receiver) = oneshot::channel();
        let id = self.send_request(body, ttl, Waiter::Call(sender))?;
        Ok((id, receiver))
    }

    /// As [`send_call`](Self::send_call), for a streamed reply that may be `window` items ahead.
    pub(crate) fn send_stream(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        window: u64,
    ) -> Result<(RequestId, Arc<Flow>), SendError> {
        let flow = Arc::new(Flow::new(window));
        let id = self.send_request(body, ttl, Waiter::Stream(flow.clone()))?;
        Ok((id, flow))
    }

    fn send_request(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        waiter: Waiter,
    ) -> Result<RequestId, SendError> {
        let mut state = self.state.lock();
        state.check(body, ttl, self.config.outbound_bytes)?;
        let id = state.next_id().map_err(SendError::Refused)?;
        let line_end = state.append(|out| {
            encode::mark(out, Mark::Id(id));
            body.append_to(out, ttl);
        });
        state.last_placed = line_end;
        state.pending.insert(id.get(), Entry { waiter, line_end, bytes: body.bytes.len() });
        let driver = state.reader_of_lines();
        drop(state);
        wake(driver);
        Ok(id)
    }

    /// Lets the server send `items` more of the streamed reply `id`, unless that is over. Each such
    /// line follows upon as many items taken, so there are never many.
    pub(crate) fn give_credit(&self, id: RequestId, items: u64) {
        let mut state = self.state.lock();
        let entry = state.pending.get_mut(id.get());
        // Behind its `/quit`, no server reads.
        if !entry.is_some_and(|entry| entry.waiter.is_stream()) || state.closing {
            return;
        }
        let driver = state.append_one_way(format_args!("/more"), format_args!("{id} {items}"));
        drop(state);
        wake(driver);
    }

    /// Appends a one-way request.
    pub(crate) fn send_one_way(&self, body: &Body) -> Result<(), SendError> {
        let mut state = self.state.lock();
        if state.max_line.is_none() && state.refusal().is_none() {
            return Err(SendError::Early);
        }
        state.check(body, None, self.config.outbound_bytes)?;
        state.last_one_way = state.append(|out| {
            encode::mark(out, Mark::Reserved);
            body.append_to(out, None);
        });
        state.last_placed = state.last_one_way;
        let driver = state.reader_of_lines();
        drop(state);
        wake(driver);
        self.counters.fold(&mut Tally { one_ways: 1, ..Tally::default() });
        Ok(())
    }

    /// What was counted, and what is under way.
    pub(crate) fn stats(&self) -> ClientStats {
        let state = self.state.lock();
        let requests = state.last_id - state.unused.len() as u64;
        let (pending, places) = (state.pending.len(), state.places);
        drop(state);
        let in_flight = places.saturating_sub(self.places.available_permits());
        ClientStats { requests, pending, in_flight, ..self.counters.stats() }
    }

    /// Appends a request of the protocol's own, whatever else waits: there are few, each bounded by
    /// what it is about. The driver to wake, once no lock is held.
    pub(crate) fn send_control(
        &self,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Result<Option<Waker>, NotSent> {
        let mut state = self.state.lock();
        let refusal = match waiter {
            Waiter::Subscribe(_) => state.refusal(),
            _ => state.refusing.as_ref(),
        };
        if let Some(error) = refusal {
            return Err(NotSent::Lost(error.clone()));
        }
        state.append_control(waiter, head, arguments)
    }

    /// There are acks to be written. The driver writes them itself, one per topic, when it writes
    /// next: so they do not pile up while the server does not read. The driver to wake.
    pub(crate) fn announce_acks(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        state.acks_due = true;
        state.reader_of_lines()
    }

    /// Appends `* /ack TOPIC POSITION`, unless this side or the server closes.
    pub(crate) fn append_ack(&self, topic: &Topic, position: Position) {
        let mut state = self.state.lock();
        if state.refusing.is_none() {
            state.append(|out| {
                let arguments = format_args!("{topic} {position}");
                encode::display(out, Mark::Reserved, format_args!("/ack"), arguments);
            });
        }
    }

    /// The caller of `id` is gone: its place becomes a tombstone, and the server is told (R5).
    pub(crate) fn cancel(&self, id: RequestId) {
        let mut state = self.state.lock();
        // The one-shot leaves the table under the lock, and its receiver is gone: nobody is woken.
        if !state.pending.get_mut(id.get()).is_some_and(Entry::cancel) {
            return;
        }
        let driver = state.append_cancel(id);
        drop(state);
        wake(driver);
    }

    /// Takes nothing new, lets the server finish what it has, and ends.
    pub(crate) fn begin_close(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closing, true) {
            return;
        }
        let head = format_args!("/quit");
        // Without an id left to quit with, the driver's bound on closing ends it.
        let quit = state.append_control(Waiter::Quit, head, format_args!("")).ok().flatten();
        state.refusing.get_or_insert(ConnectionError::Closed);
        let driver = quit.or_else(|| state.driver.take());
        drop(state);
        wake(driver);
        self.places.close();
        self.drained.notify_waiters();
    }

    /// Whether the server owes anything. One that goes away, or is left, is another matter: it need
    /// not answer what is new.
    pub(crate) fn awaits(&self) -> bool {
        let has_topics = !self.topics.lock().is_empty();
        let state = self.state.lock();
        state.refusing.is_none() && (has_topics || state.pending.len() > 0)
    }

    /// Whether the server may leave a probe unread although it is well.
    pub(crate) fn may_be_held_up(&self) -> bool {
        self.state.lock().may_be_held_up()
    }

    /// Waits until there is room to write, or nothing is begun any more.
    pub(crate) async fn room(&self) {
        loop {
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.state.lock().has_room(self.config.outbound_bytes) {
                return;
            }
            drained.await;
        }
    }

    /// Whether a line was appended, ever.
    pub(crate) fn has_spoken(&self) -> bool {
        self.state.lock().appended > 0
    }

    /// Why a line that found the gates closed was not sent.
    pub(crate) fn refusal(&self) -> NotSent {
        NotSent::Lost(self.refusal_error().unwrap_or(ConnectionError::Closed))
    }

    /// Why nothing is begun any more; `None` while it is.
    pub(crate) fn refusal_error(&self) -> Option<ConnectionError> {
        self.state.lock().refusal().cloned()
    }

    /// Nothing new is begun: the server is about to go, and takes the protocol's own requests till
    /// then.
    pub(crate) fn leave(&self, error: ConnectionError) {
        self.state.lock().leaving.get_or_insert(error);
        self.places.close();
        self.drained.notify_waiters();
    }

    /// Nothing new is taken: the server is going away.
    pub(crate) fn refuse(&self, error: ConnectionError) {
        self.state.lock().refusing.get_or_insert(error);
        self.places.close();
        self.drained.notify_waiters();
    }

    /// The connection is over: everybody gets the outcome that can be proven.
    ///
    /// `last` is the id above which the server said it executes nothing.
    pub(crate) fn end(&self, error: &ConnectionError, last: Option<u64>) {
        let mut state = self.state.lock();
        state.refusing.get_or_insert_with(|| error.clone());
        state.closing = true;
        let offered = state.offered;
        let pending = state.pending.drain();
        state.out = Vec::new();
        let held = pending.iter().filter(|(_, entry)| entry.waiter.holds_place()).count();
        drop(state);
        self.places.add_permits(held);
        self.places.close();
        self.drained.notify_waiters();
        let mut joining = Vec::new();
        for (id, entry) in pending {
            let failure = if entry.line_end > offered {
                CallError::NotSent(NotSent::Lost(error.clone()))
            } else if last.is_some_and(|last| id > last) {
                CallError::Refused { reason: Reason::new(Code::CLOSING, ""), retry: None }
            } else {
                CallError::Unknown(Unknown::Lost(error.clone()))
            };
            match entry.waiter {
                Waiter::Subscribe(topic) => joining.push((topic, failure)),
                waiter => waiter.fail(failure),
            }
        }
        let told = self.topics.lock().end(joining, error);
        told.tell(self);
        // Who asks for events from here on is told that there are none to come.
        self.phase.send_replace(Phase::Ended(error.clone()));
        self.events.emit(ConnectionEvent::Ended(error.clone()));
    }
}

impl State {
    fn append_control(
        &mut self,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Result<Option<Waker>, NotSent> {
        let id = self.next_id()?;
        let line_end = self.append(|out| encode::display(out, Mark::Id(id), head, arguments));
        self.pending.insert(id.get(), Entry { waiter, line_end, bytes: 0 });
        Ok(self.reader_of_lines())
    }

    pub(crate) fn append_cancel(&mut self, id: RequestId) -> Option<Waker> {
        self.append_one_way(format_args!("/cancel"), format_args!("{id}"))
    }

    fn append_one_way(
        &mut self,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Option<Waker> {
        self.append(|out| encode::display(out, Mark::Reserved, head, arguments));
        self.reader_of_lines()
    }
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

//! What a client's handles and its connection share: one short lock over the outbound lines and the
//! pending calls, and the gates before it.

use std::{fmt, task::Waker, time::Duration};

use tokio::sync::{Notify, Semaphore, watch};

use crate::{
    client::{
        admission::AUTH_ID,
        config::ClientConfig,
        event::{ConnectionEvent, Events},
        pending::Pending,
        topics::Topics,
        waiter::{CallResult, Entry, Waiter},
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{
        AttributeList, Attributes, Code, DEFAULT_MAX_LINE, Hello, Mark, Reason, RequestId, VERSION,
        Word, encode,
    },
    sync::{AtomicU64, Mutex, Ordering, oneshot},
};

/// The longest `ID SP` a request begins with.
const MARK_BYTES: usize = 17;
/// The longest `;ttl=`.
const TTL_BYTES: usize = 21;

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

/// What a client saw that no call of its own tells.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) unasked_replies: AtomicU64,
    pub(crate) late_replies: AtomicU64,
    pub(crate) violations: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// **Invariant:** no waker is woken, no one-shot sent and no user code run while it is locked.
pub(crate) struct State {
    /// Whole lines that wait to be written.
    out: Vec<u8>,
    /// Length of the outbound stream up to the end of `out`.
    appended: u64,
    /// Length of the outbound stream up to what was offered to the transport.
    offered: u64,
    pub(crate) pending: Pending<Entry>,
    last_id: u64,
    max_line: usize,
    /// Why nothing new is taken.
    refusing: Option<ConnectionError>,
    /// This side closes: it quits, and waits only so long.
    closing: bool,
    /// The driver, while it waits.
    driver: Option<Waker>,
    /// The driver waits for the transport to take more: a further line is no news to it.
    is_writing: bool,
    /// Somebody waits for `drained`.
    blocked: bool,
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

    fn check(&mut self, body: &Body, outbound_bytes: usize) -> Result<(), SendError> {
        if let Some(error) = &self.refusing {
            return Err(SendError::Refused(NotSent::Lost(error.clone())));
        }
        if body.max_len() > self.max_line {
            return Err(SendError::Refused(NotSent::TooLarge { max_line: self.max_line }));
        }
        if self.out.len() >= outbound_bytes {
            self.blocked = true;
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// Takes out who waits for `id`. Nobody waits for a reply to what was never sent.
    pub(crate) fn complete(&mut self, id: RequestId) -> Option<Entry> {
        let entry = self.pending.complete(id.get())?;
        if entry.line_end <= self.offered {
            return Some(entry);
        }
        self.pending.insert(id.get(), entry);
        None
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

    pub(crate) fn has_outbound(&self) -> bool {
        !self.out.is_empty()
    }

    /// The driver waits: to be woken by the next line, or, while it `is_writing`, only to close.
    pub(crate) fn wait(&mut self, driver: &Waker, is_writing: bool) {
        self.is_writing = is_writing;
        match &mut self.driver {
            Some(known) => known.clone_from(driver),
            none => *none = Some(driver.clone()),
        }
    }
}

impl Shared {
    pub(crate) fn new(config: ClientConfig) -> Self {
        let state = State {
            out: Vec::new(),
            appended: 0,
            offered: 0,
            pending: Pending::default(),
            last_id: 0,
            max_line: usize::MAX,
            refusing: None,
            closing: false,
            driver: None,
            is_writing: false,
            blocked: false,
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
            self.state.lock().last_id = AUTH_ID;
            return;
        }
        if max_line != DEFAULT_MAX_LINE {
            let head = format_args!("/hello;version={VERSION};max-line={max_line}");
            let _ = self.send_control(Waiter::Hello, head, format_args!(""));
        }
    }

    /// The server's hello is there: opens the gates.
    pub(crate) fn open(&self, hello: Hello) {
        self.state.lock().max_line = hello.max_line;
        self.places.add_permits(self.config.in_flight.min(hello.in_flight));
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
        let mut state = self.state.lock();
        state.check(body, self.config.outbound_bytes)?;
        let id = state.next_id().map_err(SendError::Refused)?;
        let line_end = state.append(|out| {
            encode::mark(out, Mark::Id(id));
            body.append_to(out, ttl);
        });
        state.pending.insert(id.get(), Entry { waiter: Waiter::Call(sender), line_end });
        let driver = state.reader_of_lines();
        drop(state);
        wake(driver);
        Ok((id, receiver))
    }

    /// Appends a one-way request.
    pub(crate) fn send_one_way(&self, body: &Body) -> Result<(), SendError> {
        let mut state = self.state.lock();
        if state.max_line == usize::MAX && state.refusing.is_none() {
            return Err(SendError::Early);
        }
        state.check(body, self.config.outbound_bytes)?;
        state.append(|out| {
            encode::mark(out, Mark::Reserved);
            body.append_to(out, None);
        });
        let driver = state.reader_of_lines();
        drop(state);
        wake(driver);
        Ok(())
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
        if let Some(error) = &state.refusing {
            return Err(NotSent::Lost(error.clone()));
        }
        state.append_control(waiter, head, arguments)
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

    /// Why a line that found the gates closed was not sent.
    pub(crate) fn refusal(&self) -> NotSent {
        NotSent::Lost(self.refusal_error().unwrap_or(ConnectionError::Closed))
    }

    /// Why nothing new is taken; `None` while it is.
    pub(crate) fn refusal_error(&self) -> Option<ConnectionError> {
        self.state.lock().refusing.clone()
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
        drop(state);
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
        self.pending.insert(id.get(), Entry { waiter, line_end });
        Ok(self.reader_of_lines())
    }

    pub(crate) fn append_cancel(&mut self, id: RequestId) -> Option<Waker> {
        self.append(|out| {
            encode::display(out, Mark::Reserved, format_args!("/cancel"), format_args!("{id}"));
        });
        self.reader_of_lines()
    }
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

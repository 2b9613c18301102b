//! What a client's handles and its connections share: one short lock over the links, and the gates
//! before it.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::OnceLock,
    task::{Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, Sleep},
};

use crate::{
    client::{
        config::ClientConfig,
        core::body::Body,
        core::items::Flow,
        core::link::{Link, LinkId, SendError},
        core::links::Links,
        core::status::{Phase, Phases},
        core::topics::{Told, Topics},
        core::waiter::{CallResult, Waiter},
        event::{ConnectionEvent, Events, Queued},
        stats::{ClientStats, Counters, Tally},
    },
    error::{ConnectionError, NotSent, Unknown},
    guard::guarded,
    protocol::{Hello, Position, RequestId, Topic},
    sync::{Arc, Mutex, oneshot},
};

pub(crate) use crate::guard::wake;

pub(crate) type Timer = Pin<Box<Sleep>>;

pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    /// The runtime of the driver.
    runtime: OnceLock<Handle>,
    /// The runtime in which the client was made, if it was in one.
    made_in: OnceLock<Handle>,
    /// Whether another connection follows upon one that is over.
    pub(crate) reconnects: bool,
    /// Whether there is a supervisor, which decides when the client ends. Otherwise the client ends
    /// with its connection.
    pub(crate) is_supervised: bool,
    /// Lock order: `topics` before `links`.
    pub(crate) topics: Mutex<Topics>,
    pub(crate) links: Mutex<Links>,
    /// An outbound buffer went below its mark, or a link changed.
    pub(crate) drained: Notify,
    /// One at a time begins a request of the protocol's own, once there is room for it.
    turns: Semaphore,
    /// For the supervisor: this side closes, or a link is gone.
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

impl Shared {
    /// What the handles of one connection share that is there already.
    pub(crate) fn of_one(config: ClientConfig) -> Self {
        Self::new(config, false, false)
    }

    /// For a client with a supervisor.
    pub(crate) fn supervised(config: ClientConfig, reconnects: bool) -> Self {
        Self::new(config, reconnects, true)
    }

    fn new(config: ClientConfig, reconnects: bool, is_supervised: bool) -> Self {
        let shared = Self {
            config,
            runtime: OnceLock::new(),
            made_in: OnceLock::new(),
            reconnects,
            is_supervised,
            topics: Mutex::default(),
            links: Mutex::new(Links::new()),
            drained: Notify::new(),
            turns: Semaphore::new(1),
            news: Notify::new(),
            phase: Phases::new(),
            events: Events::default(),
            counters: Counters::default(),
        };
        note_current(&shared.made_in);
        shared
    }

    /// Notes the driver's runtime. The client ends when it shuts down. The runtime in which the client
    /// was made may shut down before that.
    pub(crate) fn note_driver(&self) {
        note_current(&self.runtime);
    }

    /// The runtime of timers and tasks: that of the caller, which is known to run; else that of the
    /// driver, else the one in which the client was made. `None` while none is known.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        let known = || self.runtime.get().or(self.made_in.get()).cloned();
        Handle::try_current().ok().or_else(known)
    }

    /// A timer, also for a task outside the runtime; `None` while no runtime is known.
    pub(crate) fn timer(&self, time: Duration) -> Option<Timer> {
        let runtime = self.runtime()?;
        let _entered = runtime.enter();
        Some(Box::pin(tokio::time::sleep(time)))
    }

    /// The link on which what is new is begun: the connection there is, or the one to come.
    pub(crate) fn current_link(&self) -> LinkId {
        self.links.lock().current.id
    }

    /// The server's hello is there, and the credentials are accepted: opens the gates.
    /// Subscriptions go on before anything else.
    pub(crate) fn open(&self, id: LinkId, hello: Hello, told: &mut Told) {
        let places = self.config.in_flight.min(hello.in_flight);
        let mut links = self.links.lock();
        let Some(link) = links.link(id) else { return };
        link.open(&hello);
        let semaphore = link.places.clone();
        (links.down, links.cause, links.hurry) = (None, None, false);
        let carried = std::mem::take(&mut links.carried);
        // The driver is running: it writes next, and needs no waking.
        let (dropped, unused) = links.current.append_carried(&carried);
        let unused = unused.or(if links.closing { links.quit(id) } else { None });
        drop(links);
        drop(unused);
        self.topics.lock().connected(self, told);
        self.counters.fold(&mut Tally { connections: 1, ..Tally::default() });
        // A task that knows of this connection and asks for events then gets only later events.
        let connected = ConnectionEvent::Connected(hello.clone());
        let queued = self.phase.replace_and(Phase::Open(hello), || self.events.queue(&connected));
        guarded(|| semaphore.add_permits(places));
        if let Some(link) = self.links.lock().link(id) {
            link.opened = places;
        }
        queued.into_iter().for_each(Queued::wake);
        self.report_dropped(dropped);
    }

    /// The places of the connection there is, or of the next.
    ///
    /// # Errors
    /// When nothing begins any more; with `fail_fast` also when there is no connection.
    pub(crate) fn places(&self, fail_fast: bool) -> Result<Arc<Semaphore>, NotSent> {
        let links = self.links.lock();
        let down = links.down.as_ref().filter(|_| fail_fast);
        match links.refusal().or(down) {
            Some(error) => Err(NotSent::Lost(error.clone())),
            None => Ok(links.current.places.clone()),
        }
    }

    /// Whether `id` was sent on a connection that nothing new is begun on any more, while something
    /// may be on another.
    pub(crate) fn has_moved_on_from(&self, id: RequestId) -> bool {
        let links = self.links.lock();
        links.refusal().is_none() && !links.current.knows(id.get())
    }

    /// Appends an application request. It takes a place in flight, or has the one that is `held`, and
    /// keeps it until its terminal line. The driver ends it when it `expires`.
    pub(crate) fn send_call(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        held: Option<&Arc<Semaphore>>,
        expires: Option<Instant>,
    ) -> Result<(RequestId, oneshot::Receiver<CallResult>), SendError> {
        let (sender, receiver) = oneshot::channel();
        let id = self.send_request(body, ttl, held, Waiter::Call(sender), expires)?;
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
        let id = self.send_request(body, ttl, held, Waiter::Stream(flow.clone()), None)?;
        Ok((id, flow))
    }

    fn send_request(
        &self,
        body: &Body,
        ttl: Option<Duration>,
        held: Option<&Arc<Semaphore>>,
        waiter: Waiter,
        expires: Option<Instant>,
    ) -> Result<RequestId, SendError> {
        let mut links = self.links.lock();
        let link = links.gate()?;
        link.check(body, ttl, self.config.outbound_bytes)?;
        match held {
            // A place on a connection that is over is none.
            Some(held) if !Arc::ptr_eq(held, &link.places) => return Err(SendError::NoPlace),
            Some(_) => {}
            None => link.places.try_acquire().map_err(|_| SendError::NoPlace)?.forget(),
        }
        let id = links.next_id().map_err(SendError::Refused)?;
        let driver = links.current.append_request(id, body, ttl, waiter, expires);
        drop(links);
        wake(driver);
        Ok(id)
    }

    /// Lets the server send `items` more of the streamed reply `id`, unless that is over.
    pub(crate) fn give_credit(&self, id: RequestId, items: u64) {
        let mut links = self.links.lock();
        // Behind its `/quit`, no server reads.
        if links.closing {
            return;
        }
        let Some(link) = links.link_of(id) else { return };
        if !link.pending.get_mut(id.get()).is_some_and(|entry| entry.waiter.is_stream()) {
            return;
        }
        let driver = link.grant(id, items);
        drop(links);
        wake(driver);
    }

    /// Appends a one-way request.
    pub(crate) fn send_one_way(&self, body: &Body) -> Result<(), SendError> {
        let mut links = self.links.lock();
        let link = links.gate()?;
        link.check(body, None, self.config.outbound_bytes)?;
        let driver = link.append_one_way(body);
        drop(links);
        wake(driver);
        self.counters.fold(&mut Tally { one_ways: 1, ..Tally::default() });
        Ok(())
    }

    /// What was counted, and what is under way.
    pub(crate) fn stats(&self) -> ClientStats {
        let links = self.links.lock();
        let requests = links.last_id;
        let all = || std::iter::once(&links.current).chain(&links.leaving);
        let pending = all().map(|link| link.pending.len()).sum();
        let in_flight = all().map(Link::in_flight).sum();
        drop(links);
        ClientStats { requests, pending, in_flight, ..self.counters.stats() }
    }

    /// Appends a request of the protocol's own that begins something, on the connection there is.
    pub(crate) fn begin_control(
        &self,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
    ) -> Result<Begun, SendError> {
        let mut links = self.links.lock();
        match waiter {
            Waiter::Subscribe(_) => links.gate()?,
            _ => links.protocol_gate()?,
        };
        let id = links.next_id().map_err(SendError::Refused)?;
        let link = &mut links.current;
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
        let mut links = self.links.lock();
        let is_open = |link: &&mut Link| link.is_open() && link.refusing().is_none();
        links.link(link).filter(is_open)?;
        let id = links.next_id().ok()?;
        Some(links.link(link)?.append_control(id, waiter, head, arguments))
    }

    /// Takes an id for one of the lines that precede all others on a connection.
    pub(crate) fn first_id(&self, link: LinkId, waiter: Waiter) -> Option<RequestId> {
        let mut links = self.links.lock();
        let id = links.next_id().ok()?;
        links.link(link)?.expect_reply(id, waiter);
        Some(id)
    }

    /// There are acks to be written. The driver writes them itself, one per topic, when it writes
    /// next: so they do not pile up while the server does not read. The driver to wake.
    pub(crate) fn announce_acks(&self, link: LinkId) -> Option<Waker> {
        self.links.lock().link(link)?.announce_acks()
    }

    /// Leaves it to the connection there is to ask again for topics. The driver to wake.
    pub(crate) fn ask_again_at(&self, at: Instant) -> Option<Waker> {
        self.links.lock().current.ask_again_at(at)
    }

    /// Appends `* /ack TOPIC POSITION`, unless this side closes: a server that has drawn the line may
    /// have the last of a log to deliver. The driver to wake, if it is not the caller.
    pub(crate) fn append_ack(
        &self,
        link: LinkId,
        topic: &Topic,
        position: Position,
    ) -> Option<Waker> {
        let mut links = self.links.lock();
        if links.closing {
            return None;
        }
        let (head, arguments) = (format_args!("/ack"), format_args!("{topic} {position}"));
        links.link(link)?.append_notice(head, arguments)
    }

    /// The caller of `id` is gone: its place becomes a tombstone, and the server is told (R5). What was
    /// not offered to it is taken back, and leaves nothing: whether that is so.
    pub(crate) fn cancel(&self, id: RequestId) -> bool {
        let mut links = self.links.lock();
        let Some(link) = links.link_of(id) else { return false };
        if let Some(entry) = link.take_back(id) {
            let places = link.places.clone();
            drop(links);
            places.add_permits(usize::from(entry.waiter.holds_place()));
            self.drained.notify_waiters();
            return true;
        }
        // The one-shot leaves the table under the lock, but its receiver is gone, so no task is
        // woken.
        if link.pending.get_mut(id.get()).is_some_and(|entry| entry.cancel()) {
            let driver = link.append_cancel(id);
            drop(links);
            wake(driver);
        }
        false
    }

    /// Ends the calls whose time is over; when the next one's is.
    pub(crate) fn end_overdue(&self, id: LinkId) -> Option<Instant> {
        let mut links = self.links.lock();
        let link = links.link(id)?;
        let (overdue, next) = link.take_overdue(Instant::now());
        let taken_back = overdue.iter().filter(|(_, was_offered)| !was_offered).count();
        let places = link.places.clone();
        drop(links);
        if taken_back > 0 {
            places.add_permits(taken_back);
            self.drained.notify_waiters();
        }
        for (waiter, was_offered) in overdue {
            waiter.fail(match was_offered {
                true => Unknown::Deadline.into(),
                false => self.out_of_time().into(),
            });
        }
        next
    }

    /// Waits for a connection. With `fail_fast` it ends when the first attempt to connect fails. That does not change the phase, so it watches `drained`, too.
    pub(crate) async fn wait_for_connection(&self, fail_fast: bool) -> Result<(), NotSent> {
        let mut settled = pin!(self.phase.until(|phase| !matches!(phase, Phase::Connecting)));
        loop {
            let mut failed = pin!(self.drained.notified());
            failed.as_mut().enable();
            if let Some(error) = self.down().filter(|_| fail_fast) {
                return Err(NotSent::Lost(error));
            }
            let phase = poll_fn(|cx| match settled.as_mut().poll(cx) {
                Poll::Ready(phase) => Poll::Ready(Some(phase)),
                Poll::Pending if fail_fast => failed.as_mut().poll(cx).map(|()| None),
                Poll::Pending => Poll::Pending,
            });
            match phase.await {
                Some(Phase::Ended(error)) => return Err(NotSent::Lost(error)),
                Some(Phase::Open(_) | Phase::Connecting) => return Ok(()),
                None => {}
            }
        }
    }

    /// Whether the server owes anything. One that goes away, or is left, is another matter: it need
    /// not answer what is new.
    pub(crate) fn awaits(&self, link: LinkId) -> bool {
        let has_topics = self.topics.lock().has_any_on(link);
        let mut links = self.links.lock();
        let link = links.link(link).filter(|link| link.refusing().is_none());
        link.is_some_and(|link| has_topics || link.pending.len() > 0)
    }

    /// Waits until there is room to write, and for another request of the protocol's own, or until
    /// nothing is begun any more. Who has its turn begins one request at most, before it gives it up.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.turns.acquire().await.ok();
        loop {
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.has_room_for_control() {
                return turn;
            }
            drained.await;
        }
    }

    fn has_room_for_control(&self) -> bool {
        let link = &mut self.links.lock().current;
        let has_room = link.has_room(self.config.outbound_bytes);
        link.has_control_room(self.config.control_requests) && has_room
    }

    /// Waits for so long, but not after nothing is begun any more.
    pub(crate) async fn pause(&self, pause: Duration) {
        let mut timer = self.timer(pause);
        loop {
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.refusal_error().is_some() {
                return;
            }
            // The timer comes second: its runtime may be gone once the client is over.
            let over = poll_fn(|cx| match &mut timer {
                _ if drained.as_mut().poll(cx).is_ready() => Poll::Ready(false),
                Some(timer) => timer.as_mut().poll(cx).map(|()| true),
                None => Poll::Ready(true),
            });
            if over.await {
                return;
            }
        }
    }

    /// Whether a line was appended on this connection, ever.
    pub(crate) fn has_spoken(&self, link: LinkId) -> bool {
        self.links.lock().link(link).is_some_and(|link| link.has_spoken())
    }

    /// Whether this side closes.
    pub(crate) fn is_closing(&self) -> bool {
        self.links.lock().closing
    }

    /// Whether this connection is the one on which what is new is begun.
    pub(crate) fn is_current(&self, link: LinkId) -> bool {
        self.links.lock().current.id == link
    }

    /// Why nothing is begun any more, ever; `None` while it is, or will be.
    pub(crate) fn refusal_error(&self) -> Option<ConnectionError> {
        self.links.lock().refusal().cloned()
    }

    /// A request is out of time before it was sent: with why there is no connection, if there is none.
    pub(crate) fn out_of_time(&self) -> NotSent {
        let links = self.links.lock();
        NotSent::Deadline(links.cause.clone().filter(|_| !links.current.is_open()))
    }

    /// An attempt to connect failed; others may be under way.
    pub(crate) fn note_cause(&self, error: &ConnectionError) {
        self.links.lock().cause = Some(error.clone());
    }

    /// The next round of attempts to connect is not to wait for its time, unless there is a connection.
    pub(crate) fn hurry(&self) {
        let mut links = self.links.lock();
        if !links.current.is_open() {
            links.hurry = true;
            drop(links);
            self.news.notify_one();
        }
    }

    pub(crate) fn is_in_a_hurry(&self) -> bool {
        self.links.lock().hurry
    }

    pub(crate) fn take_hurry(&self) {
        self.links.lock().hurry = false;
    }

    /// Why there is no connection at present, where there was to be one.
    pub(crate) fn down(&self) -> Option<ConnectionError> {
        self.links.lock().down.clone()
    }
}

/// Notes the current runtime, unless one is noted already.
fn note_current(runtime: &OnceLock<Handle>) {
    if runtime.get().is_none()
        && let Ok(current) = Handle::try_current()
    {
        runtime.get_or_init(|| current);
    }
}

//! The client's driver: one future that reads all there is, completes it, then writes once.

use std::{
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

use crate::{
    client::{
        core::auth::Ways,
        core::link::{Link, LinkId},
        core::reader::Reader,
        core::retry_after::Hint,
        driver::timer::Alarm,
        shared::{Shared, Timer},
    },
    coop::poll_budgeted,
    error::ConnectionError,
    guard::{Held, InSpan, caught, guarded, wake},
    io::{Scratch, WriteBuffer},
    protocol::{Hello, KeepAlive, LineDecoder, Renewal, Time, Verdict},
    sync::Arc,
};

/// Reads a driver does in one poll before it lets other tasks run.
const READS_PER_POLL: usize = 8;

/// How long a client without requests delays its first line. Servers close connections without a
/// first line, by default after twice this.
const FIRST_LINE: Duration = Duration::from_secs(5);

/// The driver of a client's connection: a future that must be polled for anything to happen.
///
/// Made by [`Client::new`](crate::Client::new); spawn it. It ends when the connection does: with
/// `Ok` if this side closed it, and it never waits for user code. Dropping it ends every call and
/// subscription.
///
/// # Errors
/// [`ConnectionError`], the same that every waiting call got.
///
/// # Panics
/// When it is polled outside a tokio runtime.
#[must_use = "nothing happens on the connection unless its driver is polled"]
pub struct Connection<T> {
    io: Held<T>,
    lines: LineDecoder,
    out: WriteBuffer,
    reader: Reader,
    /// The write was put off once, so that callers who run now can join it.
    gathered: bool,
    started: Instant,
    /// The time for the server's hello, if no supervisor watches it.
    greeting: Option<Timer>,
    /// When the first of the calls may be past the deadline that all of them have.
    overdue: Option<Alarm>,
    renewal: Option<(Renewal, Alarm)>,
    silence: Option<(KeepAlive, Alarm)>,
    /// When what was refused for now is asked for again.
    again: Option<Alarm>,
    /// This side closes, as the last look at the shared state told.
    closing: bool,
    /// This side quits a server that goes away, and goes on with another.
    quits: bool,
    /// How long the server is waited for: in all once this side closes (`true`), or in silence once
    /// the server has drawn the line.
    patience: Option<(bool, Pin<Box<Sleep>>)>,
    /// Why it is over.
    ended: Option<ConnectionError>,
}

impl<T> fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<T> Connection<T> {
    /// A driver for the next link.
    pub(crate) fn new(io: Held<T>, shared: Arc<Shared>, ways: Ways) -> Self {
        let link = shared.current_link();
        Self {
            io,
            lines: LineDecoder::new(shared.config.max_line),
            out: WriteBuffer::default(),
            reader: Reader::new(shared, link, ways),
            gathered: false,
            started: Instant::now(),
            greeting: None,
            overdue: None,
            renewal: None,
            silence: None,
            again: None,
            closing: false,
            quits: false,
            patience: None,
            ended: None,
        }
    }

    fn shared(&self) -> &Shared {
        &self.reader.shared
    }

    pub(crate) fn link(&self) -> LinkId {
        self.reader.link
    }

    /// The server's hello; `None` until the credentials are accepted, if the server asks for them.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        self.reader.hello.as_ref()
    }

    /// Whether the server has said goodbye, so that nothing new is begun here.
    pub(crate) fn has_left(&self) -> bool {
        self.reader.has_left
    }

    /// How long the server asks to be left alone, as soon as it does.
    pub(crate) fn hint(&self) -> Arc<Hint> {
        self.reader.hint.clone()
    }

    /// It is over, for this reason, unless it was before.
    pub(crate) fn end(&mut self, error: &ConnectionError) {
        if self.ended.is_none() {
            self.ended = Some(error.clone());
            guarded(|| tracing::debug!(%error, "connection ended"));
            self.shared().lose(self.link(), error, self.reader.last_executed);
        }
    }

    /// Does something with the link. It is there until the end, and everything here before that.
    fn with_link<R>(&self, what: impl FnOnce(&mut Link) -> R) -> Option<R> {
        self.shared().links.lock().link(self.link()).map(what)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = Result<(), ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.shared().note_driver();
        let _entered = InSpan::enter(&this.reader.span);
        let polled = match &this.ended {
            Some(error) => poll_budgeted(cx, |_| Poll::Ready(error.clone())),
            None => this.poll_all(cx),
        };
        let error = match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(error) => error,
        };
        this.end(&error);
        Poll::Ready(match error {
            ConnectionError::Closed => Ok(()),
            error => Err(error),
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Why the connection ended.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        // Reading never waits for writing: two ends that both wait to write would wait for ever.
        if let Poll::Ready(error) = self.poll_batch(cx) {
            return Poll::Ready(error);
        }
        if let Poll::Ready(error) = self.poll_greeting(cx) {
            return Poll::Ready(error);
        }
        self.poll_overdue(cx);
        self.poll_renewal(cx);
        self.poll_again(cx);
        if let Poll::Ready(error) = self.poll_silence(cx) {
            return Poll::Ready(error);
        }
        self.quit_if_idle();
        if let Poll::Ready(error) = self.poll_write(cx) {
            return Poll::Ready(error);
        }
        self.poll_closing(cx)
    }

    fn quit_if_idle(&mut self) {
        if self.reader.has_left && !self.quits && self.shared().reconnects {
            self.quits = self.shared().quit_if_idle(self.link());
        }
    }

    /// Reads everything that is there, and wakes the tasks concerned. Replies are completed before
    /// the end of reading is reported.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        let read = self.poll_read(cx);
        if let Err(fault) = self.reader.finish_batch() {
            return Poll::Ready(fault);
        }
        self.reader.not_admitted.take().map_or(read, Poll::Ready)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        let mut scratch = Scratch::take();
        for _ in 0..READS_PER_POLL {
            let (scratch, io) = (&mut scratch, &mut *self.io);
            let mut bytes = match ready!(transport(|| scratch.poll_read(io, cx))) {
                Ok([]) => return Poll::Ready(self.reader.closed_by_peer()),
                Ok(bytes) => bytes,
                Err(error) => return Poll::Ready(self.reader.broken(error)),
            };
            self.reader.tally.bytes_in += bytes.len() as u64;
            self.heard();
            self.patience.take_if(|(closing, _)| !*closing);
            loop {
                match self.lines.next(&mut bytes) {
                    Ok(Some(line)) => {
                        if let Err(error) = self.reader.line(line) {
                            return Poll::Ready(error);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Poll::Ready(ConnectionError::Protocol(error.to_string())),
                }
            }
        }
        // Not `wake_by_ref`: other tasks, whose bytes the runtime has not seen yet, should have
        // their turn.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Bytes came. The timer is reset only for the answer to a probe, which has its own time.
    fn heard(&mut self) {
        let now = time_since(self.started);
        if let Some((silence, alarm)) = &mut self.silence
            && silence.heard(now)
        {
            let probe = self.reader.shared.config.probe;
            alarm.reset(instant(self.started, now.after(probe)));
        }
    }

    /// Writes what callers appended. A lone caller's line goes at once; where more are in flight,
    /// or were just answered, the write is put off by one turn of the scheduler, so that callers who
    /// are about to run join it: a burst then costs one write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        loop {
            let was_put_off = !self.out.is_done();
            if !was_put_off && !self.take_outbound(cx) {
                return Poll::Pending;
            }
            let before = self.out.len();
            let (out, io) = (&mut self.out, &mut *self.io);
            let written = transport(|| out.poll_write(io, cx));
            if was_put_off && self.out.len() < before {
                self.on_write_progress();
            }
            self.count_written(before - self.out.len());
            match written {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(self.write_failed(error, cx)),
                Poll::Pending => {
                    drop(self.with_link(|link| link.wait(cx.waker(), true)));
                    self.closing = self.shared().is_closing();
                    return Poll::Pending;
                }
            }
        }
    }

    /// The transport takes bytes again that it had put off: the peer's system is there. A probe that
    /// stands behind them could not be answered yet.
    fn on_write_progress(&mut self) {
        if let Some((silence, _)) = &mut self.silence {
            silence.heard(time_since(self.started));
        }
    }

    fn count_written(&mut self, bytes: usize) {
        self.reader.tally.bytes_out += bytes as u64;
        self.reader.shared.counters.fold(&mut self.reader.tally);
    }

    /// A server that closes may have said why, or answered, before: that is read first.
    fn write_failed(&mut self, error: ConnectionError, cx: &mut Context<'_>) -> ConnectionError {
        match self.poll_batch(cx) {
            Poll::Ready(known) => known,
            Poll::Pending => self.reader.broken(error),
        }
    }

    /// Once this side closes, the server has only so long to finish. A server that has not even said
    /// hello has nothing to finish, and one that answered `/quit` has finished. One that has drawn
    /// the line takes no probe any more: it may be silent for as long.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        let closing = self.closing || self.quits;
        if self.reader.has_quit || closing && self.reader.hello.is_none() {
            return Poll::Ready(ConnectionError::Closed);
        }
        if !closing && self.reader.last_executed.is_none() {
            return Poll::Pending;
        }
        self.patience.take_if(|(of_closing, _)| *of_closing != closing);
        let timeout = self.shared().config.close_timeout;
        let patience = || (closing, Box::pin(tokio::time::sleep(timeout)));
        ready!(self.patience.get_or_insert_with(patience).1.as_mut().poll(cx));
        Poll::Ready(match closing {
            true => ConnectionError::CloseTimeout,
            false => self.reader.end_of_stream(),
        })
    }

    fn take_outbound(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.reader.first_lines.is_empty() {
            self.out.bytes().append(&mut self.reader.first_lines);
            return true;
        }
        let shared = &self.reader.shared;
        let mut links = shared.links.lock();
        // What comes due while these are written wakes no task: this driver may hold no waker
        // there.
        while links.link(self.reader.link).is_some_and(Link::take_acks_due) {
            drop(links);
            let drivers = shared.topics.lock().write_acks(shared);
            let others = drivers.into_iter().filter(|driver| !driver.will_wake(cx.waker()));
            others.map(Some).for_each(wake);
            links = shared.links.lock();
        }
        self.closing = links.is_closing();
        let Some(link) = links.link(self.reader.link) else { return false };
        if let Some(at) = link.take_again() {
            drop(links);
            self.reader.told.ask_again(Some(at));
            // Its time is looked at before anything is written.
            cx.waker().wake_by_ref();
            return false;
        }
        if !link.has_outbound() || self.reader.hello.is_none() {
            let unused = link.wait(cx.waker(), false);
            drop(links);
            drop(unused);
            return false;
        }
        let is_burst = link.pending.len() > 1 || self.reader.completed > 1;
        if !self.gathered && is_burst {
            drop(links);
            self.gathered = true;
            // Not `wake_by_ref`: that calls another worker to a task which is to wait for others.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return false;
        }
        self.gathered = false;
        self.reader.completed = 0;
        let blocked = link.take_outbound(&mut self.out);
        drop(links);
        if blocked {
            shared.drained.notify_waiters();
        }
        true
    }

    /// A client of one connection has no supervisor to bound how long the server takes to say hello.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        if self.reader.hello.is_some() || self.shared().is_supervised {
            self.greeting = None;
            return Poll::Pending;
        }
        if self.greeting.is_none() {
            self.greeting = self.shared().timer(self.shared().config.connect_timeout);
        }
        let greeting = self.greeting.as_mut().map(|timer| timer.as_mut().poll(cx));
        greeting.unwrap_or(Poll::Pending).map(|()| ConnectionError::HandshakeTimeout)
    }

    /// Ends calls that are past the default deadline. The timer is not reset when a call is sent:
    /// when it fires, it looks for the call whose time is over next.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) {
        let shared = &self.reader.shared;
        let Some(limit) = shared.config.deadline.filter(|_| self.reader.hello.is_some()) else {
            return;
        };
        let timer = match &mut self.overdue {
            Some(timer) => timer,
            none => {
                let Some(first) = Instant::now().checked_add(limit) else { return };
                none.insert(Alarm::at(first))
            }
        };
        while timer.poll(cx).is_ready() {
            let next = shared.end_overdue(self.reader.link);
            let Some(next) = next.or_else(|| Instant::now().checked_add(limit)) else { return };
            timer.reset(next);
        }
    }

    /// Asks again for what the server had no room for, each in its time.
    fn poll_again(&mut self, cx: &mut Context<'_>) {
        loop {
            let next = self.again.as_ref().map(Alarm::deadline);
            if let Some(at) = self.reader.take_again()
                && next.is_none_or(|next| at < next)
            {
                self.again = Some(Alarm::at(at));
            }
            let Some(alarm) = &mut self.again else { return };
            if alarm.poll(cx).is_pending() {
                return;
            }
            self.again = None;
            self.reader.ask_again();
        }
    }

    /// Probes a server that owes something and is silent, and gives it up. The timer is not reset
    /// when bytes are read: when it fires, it looks how long ago that was.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        if self.reader.hello.is_none() {
            return Poll::Pending;
        }
        let config = &self.reader.shared.config;
        let probe = config.probe;
        let answer = config.dead.saturating_sub(probe).max(Duration::from_secs(1));
        let (silence, alarm) = self.silence.get_or_insert_with(|| {
            let now = time_since(self.started);
            let mut silence = KeepAlive::default();
            let _ = silence.heard(now);
            (silence, Alarm::at(instant(self.started, now.after(probe))))
        });
        while alarm.poll(cx).is_ready() {
            let awaits = self.reader.shared.awaits(self.reader.link);
            let now = time_since(self.started);
            match silence.look(now, awaits, probe, answer) {
                Verdict::Wait => {}
                Verdict::Probe => {
                    self.reader.renew(true);
                    if let Some((renewal, _)) = &mut self.renewal {
                        renewal.sent(now, self.reader.shared.config.random.next_u64());
                    }
                }
                Verdict::Dead => return Poll::Ready(ConnectionError::Silent),
            }
            alarm.reset(instant(self.started, silence.due()));
        }
        Poll::Pending
    }

    /// Renews the lease well before it runs out, while there is something to keep alive.
    fn poll_renewal(&mut self, cx: &mut Context<'_>) {
        let Some(hello) = &self.reader.hello else { return };
        let has_idle = hello.idle.is_some();
        let (renewal, alarm) = self.renewal.get_or_insert_with(|| {
            let now = time_since(self.started);
            let renewal = first_renewal(hello, now, self.reader.shared.config.random.next_u64());
            let first = renewal.due().min(now.after(FIRST_LINE));
            (renewal, Alarm::at(instant(self.started, first)))
        });
        while alarm.poll(cx).is_ready() {
            let now = time_since(self.started);
            if now < renewal.due() {
                self.reader.say_something();
            } else {
                self.reader.renew(has_idle);
                renewal.sent(now, self.reader.shared.config.random.next_u64());
            }
            alarm.reset(instant(self.started, renewal.due()));
        }
    }
}

/// What the transport says, which is user code.
fn transport<T>(poll: impl FnOnce() -> Poll<io::Result<T>>) -> Poll<Result<T, ConnectionError>> {
    caught(|| poll().map_err(ConnectionError::from))
        .unwrap_or_else(|message| Poll::Ready(Err(ConnectionError::panicked("transport", message))))
}

fn first_renewal(hello: &Hello, now: Time, jitter: u64) -> Renewal {
    let idle = hello.idle.map(Duration::from_secs);
    Renewal::new(Duration::from_secs(hello.lease), idle, now, jitter)
}

fn time_since(start: Instant) -> Time {
    Time::default().after(start.elapsed())
}

fn instant(start: Instant, time: Time) -> Instant {
    start + Duration::from_millis(time.as_millis())
}

/// A driver that is dropped ends everything that waits on it.
impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        let _entered = InSpan::enter(&self.reader.span);
        self.end(&ConnectionError::Closed);
    }
}

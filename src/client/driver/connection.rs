//! The driver of a client's connection: a future that reads all available bytes, and then writes
//! once.

use std::{
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
};

use crate::{
    client::{
        core::{
            connection::{Connection as Core, CredentialsByScheme, Output},
            retry_after::RetryAfter,
        },
        driver::timer::DriverTimer,
        shared::Shared,
    },
    coop::poll_budgeted,
    error::ConnectionError,
    guard::{Held, InSpan, caught},
    io::Scratch,
    protocol::{Hello, Time},
    sync::Arc,
};

/// Reads in one poll of a driver before it lets other tasks run.
const READS_PER_POLL: usize = 8;

/// The driver of a client's connection: a future that must be polled for anything to happen.
///
/// Made by [`Client::new`](crate::Client::new); spawn it. It ends when the connection does, with
/// `Ok` if this side closed it. It never waits for user code. Dropping it ends every call and
/// subscription.
///
/// # Errors
/// [`ConnectionError`], the same that every waiting call gets.
///
/// # Panics
/// When it is polled outside a tokio runtime.
#[must_use = "nothing happens on the connection unless its driver is polled"]
pub struct Connection<T> {
    // Dropped before the transport, whose drop is user code: no caller has to wait for that.
    core: Core,
    io: Held<T>,
    shared: Arc<Shared>,
    /// Whether the write was delayed once, so that callers that run now can append lines.
    gathered: bool,
    timer: DriverTimer,
}

impl<T> fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.core.state).finish_non_exhaustive()
    }
}

impl<T> Connection<T> {
    /// Creates the driver of the next link.
    pub(crate) fn new(io: Held<T>, shared: Arc<Shared>, credentials: CredentialsByScheme) -> Self {
        let now = shared.now();
        let greeting = now.after(shared.config.connect_timeout);
        let greeting = Some(greeting).filter(|_| !shared.is_supervised);
        let core = Core::new(shared.locked.clone(), credentials, greeting, now);
        Self { core, io, shared, gathered: false, timer: DriverTimer::default() }
    }

    /// The server's `/hello`; `None` until the server has accepted the credentials, if it asks for
    /// them.
    pub(crate) fn hello(&self) -> Option<&Hello> {
        self.core.state.hello()
    }

    /// Whether the server has sent `/bye`, so that no request begins here any more.
    pub(crate) fn has_left(&self) -> bool {
        self.core.state.has_left()
    }

    /// Until when the server asks clients not to connect. It is updated when the server sends a
    /// `retry`.
    pub(crate) fn retry_after(&self) -> Arc<RetryAfter> {
        self.core.retry_after.clone()
    }

    /// Ends the connection with this error, unless it has already ended.
    pub(crate) fn end(&mut self, error: &ConnectionError) {
        let now = self.shared.now();
        self.core.end(error, now);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = Result<(), ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.shared.runtimes.note_driver();
        let _entered = InSpan::enter(&this.core.span);
        let polled = match this.core.state.ended() {
            Some(error) => poll_budgeted(cx, |_| Poll::Ready(error.clone())),
            None => this.poll_all(cx),
        };
        let error = ready!(polled);
        this.end(&error);
        Poll::Ready(match error {
            ConnectionError::Closed => Ok(()),
            error => Err(error),
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Runs the connection. Returns why it has ended.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        let now = self.shared.now();
        match self.poll_once(cx, now) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>, now: Time) -> Result<(), ConnectionError> {
        self.poll_batch(cx, now)?;
        if self.core.next_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now)?;
        }
        self.poll_write(cx, now)?;
        while self.timer.poll_until(self.core.next_timeout(), &self.shared.clock, cx) {
            let now = self.shared.now();
            self.core.handle_timeout(now)?;
            self.poll_write(cx, now)?;
        }
        Ok(())
    }

    /// Reads all available bytes, and wakes the tasks concerned. Replies are delivered before the
    /// end of the stream is reported.
    fn poll_batch(&mut self, cx: &mut Context<'_>, now: Time) -> Result<(), ConnectionError> {
        let read = self.poll_read(cx, now);
        self.core.finish_input()?;
        read
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, now: Time) -> Result<(), ConnectionError> {
        let mut scratch = Scratch::take();
        for _ in 0..READS_PER_POLL {
            let (scratch, io) = (&mut scratch, &mut *self.io);
            match transport(|| scratch.poll_read(io, cx)) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok([])) => return Err(self.core.handle_eof()),
                Poll::Ready(Ok(bytes)) => self.core.handle_input(bytes, now)?,
                Poll::Ready(Err(error)) => return Err(self.core.broken(error)),
            }
        }
        // Not `wake_by_ref`: the runtime should first poll the other sockets and run their tasks.
        let _ = pin!(yield_now()).poll(cx);
        Ok(())
    }

    /// Writes the lines that callers have appended. The line of a single caller is written at once.
    /// If more calls are in flight or were just answered, the write is delayed by one turn of the
    /// scheduler. Callers that are about to run can then append their lines, so a burst costs one
    /// write.
    fn poll_write(&mut self, cx: &mut Context<'_>, now: Time) -> Result<(), ConnectionError> {
        loop {
            match self.core.poll_output(self.gathered, cx.waker(), now)? {
                Output::Nothing => return Ok(()),
                Output::Gather => {
                    self.gathered = true;
                    // Not `wake_by_ref`: that would wake another worker for a task that has to
                    // wait.
                    let _ = pin!(yield_now()).poll(cx);
                    return Ok(());
                }
                Output::Write => self.gathered = false,
            }
            match self.poll_transport(cx, now) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(self.write_failed(error, cx, now)),
                Poll::Pending => {
                    return self.core.handle_write_blocked(cx.waker(), now);
                }
            }
        }
    }

    /// Writes until no bytes are left or the transport takes no more, then flushes.
    fn poll_transport(
        &mut self,
        cx: &mut Context<'_>,
        now: Time,
    ) -> Poll<Result<(), ConnectionError>> {
        while !self.core.output().is_empty() {
            let (out, io) = (self.core.output(), Pin::new(&mut *self.io));
            match ready!(transport(|| io.poll_write(cx, out))) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Poll::Ready(Err(error.into()));
                }
                Ok(count) => self.core.handle_written(count, now),
                Err(ConnectionError::Io { kind: io::ErrorKind::Interrupted, .. }) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.core.needs_flush() {
            let io = Pin::new(&mut *self.io);
            if let Err(error) = ready!(transport(|| io.poll_flush(cx))) {
                return Poll::Ready(Err(error));
            }
            self.core.handle_flushed();
        }
        Poll::Ready(Ok(()))
    }

    /// After a failed write, reads what the server sent before it closed: replies, or the reason.
    fn write_failed(
        &mut self,
        error: ConnectionError,
        cx: &mut Context<'_>,
        now: Time,
    ) -> ConnectionError {
        match self.poll_batch(cx, now) {
            Err(known) => known,
            Ok(()) => self.core.broken(error),
        }
    }
}

/// Polls the transport, which is user code, and catches a panic.
fn transport<T>(poll: impl FnOnce() -> Poll<io::Result<T>>) -> Poll<Result<T, ConnectionError>> {
    caught(|| poll().map_err(ConnectionError::from))
        .unwrap_or_else(|message| Poll::Ready(Err(ConnectionError::panicked("transport", message))))
}

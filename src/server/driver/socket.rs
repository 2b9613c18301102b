//! The loop that reads and writes the transport of a connection.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
};

use crate::{
    io::Scratch,
    protocol::Time,
    server::{
        core::{connection::Connection, state::ConnectionState},
        driver::{serving::Serving, timers::Alarm},
        session::Session,
    },
    sync::Arc,
};

/// Rounds per poll, after which other tasks of the runtime have their turn.
///
/// With two reads per round, that is at most 256 KiB of input: thousands of requests in a few
/// milliseconds. So long may a flood delay other tasks of its thread. The memory tests rely on this
/// number.
const ROUNDS: usize = 2;

/// The task of one connection: its transport, and the core that processes its input. It ends when
/// the connection is closed.
pub(in crate::server) struct Driver<T> {
    io: T,
    core: Connection,
    serving: Arc<Serving>,
    /// The alarm for the earliest timeout of the core.
    alarm: Alarm,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(in crate::server) fn new(io: T, serving: Arc<Serving>, session: Session) -> Self {
        let now = serving.timers.now();
        let core = Connection::new(serving.environment.clone(), session, now);
        Self::drive(io, core, serving)
    }

    /// The driver of a connection over the limit.
    pub(in crate::server) fn refused(io: T, serving: Arc<Serving>, session: Session) -> Self {
        let now = serving.timers.now();
        let core = Connection::new_refused(serving.environment.clone(), session, now);
        Self::drive(io, core, serving)
    }

    fn drive(io: T, core: Connection, serving: Arc<Serving>) -> Self {
        let alarm = serving.timers.new_alarm();
        Self { io, core, serving, alarm }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.serving.timers.now();
        if self.core.handle_mail(cx.waker(), now) {
            self.serving.timers.clear(&mut self.alarm);
        }
        for _ in 0..ROUNDS {
            let goes_on = self.poll_round(cx, now)?;
            match self.core.state() {
                ConnectionState::Closed => return Poll::Ready(self.ended()),
                _ if goes_on => {}
                _ => return Poll::Pending,
            }
        }
        give_way(cx);
        Poll::Pending
    }

    /// Reads, processes and writes. Returns whether another round has work.
    fn poll_round(&mut self, cx: &mut Context<'_>, now: Time) -> io::Result<bool> {
        self.core.begin_round(now);
        self.poll_read(cx, now)?;
        self.core.advance(now);
        match self.poll_write(cx, now) {
            Poll::Ready(written) => written?,
            Poll::Pending => self.core.handle_write_blocked(now),
        }
        let goes_on = self.core.end_round(now);
        if self.core.state() != ConnectionState::Closing {
            return Ok(goes_on);
        }
        if let Poll::Ready(closed) = Pin::new(&mut self.io).poll_shutdown(cx) {
            closed?;
            self.core.handle_shutdown(now);
        }
        Ok(self.core.state() == ConnectionState::Lingering)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, now: Time) -> io::Result<()> {
        while let Some(bytes) = self.core.wants_input() {
            let mut scratch = Scratch::take();
            match scratch.poll_read_at_most(bytes, &mut self.io, cx)? {
                Poll::Pending => break,
                Poll::Ready([]) => self.core.handle_eof(now),
                Poll::Ready(bytes) => self.core.handle_input(bytes, now),
            }
        }
        Ok(())
    }

    /// Writes until everything is written or the transport takes no more, then flushes. Pending if
    /// bytes are left to be written or flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>, now: Time) -> Poll<io::Result<()>> {
        while !self.core.output().is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, self.core.output())) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.core.handle_written(count, now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.core.needs_flush() {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.core.handle_flushed(now);
        }
        Poll::Ready(Ok(()))
    }

    fn ended(&self) -> io::Result<()> {
        match self.core.lost() {
            Some(reason) => Err(io::Error::new(io::ErrorKind::TimedOut, reason)),
            None => Ok(()),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let polled = this.poll_turn(cx);
        if let Some(timeout) = this.core.next_timeout()
            && polled.is_pending()
            && this.alarm.is_later_than(timeout)
        {
            this.serving.timers.set(&mut this.alarm, timeout, this.core.session().mailbox());
        }
        polled.map(|closed| match closed {
            Ok(()) => tracing::debug!("closed"),
            Err(error) => tracing::debug!(%error, "connection lost"),
        })
    }
}

/// Wakes the task after the runtime has polled for I/O.
///
/// A task that wakes itself directly is polled dozens of times before that. A flood would then
/// delay connections whose bytes the runtime has not seen yet.
fn give_way(cx: &mut Context<'_>) {
    let yielding = pin!(yield_now());
    let _ = yielding.poll(cx);
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.serving.timers.clear(&mut self.alarm);
        self.core.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<Driver<()>>();
        assert!(size <= 256, "{size} bytes");
    }
}

//! The task of an accepted connection: first the handshake of its transport, then the connection.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    guard::guarded,
    protocol::Time,
    server::{
        access::principal::Principal,
        driver::serving::Serving,
        driver::socket::Driver,
        driver::{listener::Listener, timers::Alarm},
        mailbox::{ALARM, COMMANDS, CUT, DRAIN, LINE},
        session::Session,
    },
    sync::Arc,
};

/// A connection's task. The handshake is in it, so that the accept loop does not wait for one.
#[expect(clippy::large_enum_variant, reason = "it is the largest one for nearly all its life")]
pub(in crate::server) enum ConnectionTask<L: Listener> {
    Handshake(Box<Handshake<L>>),
    Open(Driver<L::Io>),
    Over,
}

pub(in crate::server) struct Handshake<L: Listener> {
    /// `None` after the handshake.
    io: Option<L::Io>,
    serving: Arc<Serving>,
    session: Session,
    deadline: Option<Time>,
    alarm: Alarm,
}

impl<L: Listener> ConnectionTask<L> {
    pub(in crate::server) fn new(io: L::Io, serving: Arc<Serving>, session: Session) -> Self {
        let (io, alarm) = (Some(io), serving.timers.new_alarm());
        Self::Handshake(Box::new(Handshake { io, serving, session, deadline: None, alarm }))
    }
}

impl<L: Listener> Future for ConnectionTask<L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Self::Handshake(handshake) = this {
            *this = match ready!(handshake.poll(cx)) {
                Some(connection) => Self::Open(connection),
                None => Self::Over,
            };
        }
        match this {
            Self::Open(connection) => Pin::new(connection).poll(cx),
            Self::Handshake(_) | Self::Over => Poll::Ready(()),
        }
    }
}

impl<L: Listener> Handshake<L> {
    /// Polls the handshake. Returns the connection, or `None` if the handshake failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Driver<L::Io>>> {
        let Some(io) = &mut self.io else { return Poll::Ready(None) };
        match guarded(|| L::poll_handshake(io, cx)) {
            Some(Poll::Ready(Ok(principal))) => Poll::Ready(self.open(principal)),
            Some(Poll::Ready(Err(error))) => {
                tracing::debug!(%error, "handshake failed");
                Poll::Ready(None)
            }
            Some(Poll::Pending) if self.is_given_up(cx) => {
                tracing::debug!("handshake ended: too slow, or the connection is to close");
                Poll::Ready(None)
            }
            Some(Poll::Pending) => Poll::Pending,
            None => {
                tracing::error!("handshake panicked");
                Poll::Ready(None)
            }
        }
    }

    fn open(&mut self, principal: Principal) -> Option<Driver<L::Io>> {
        let io = self.io.take()?;
        if !principal.is_anonymous() {
            tracing::debug!(?principal, "client identified by its transport");
            self.session.set_principal(principal);
        }
        Some(Driver::new(io, Arc::clone(&self.serving), self.session.clone()))
    }

    /// Whether the handshake takes too long, or the connection is to end.
    fn is_given_up(&mut self, cx: &mut Context<'_>) -> bool {
        let (timers, mailbox) = (&self.serving.timers, self.session.mailbox());
        let flags = mailbox.take(cx.waker(), &mut Vec::new());
        let now = timers.now();
        let limit = self.serving.environment.config.handshake_time;
        let deadline = *self.deadline.get_or_insert_with(|| now.after(limit));
        if flags & ALARM != 0 {
            timers.clear(&mut self.alarm);
        }
        if self.alarm.is_later_than(deadline) {
            timers.set(&mut self.alarm, deadline, mailbox);
        }
        let is_closed = flags & COMMANDS != 0
            && mailbox.take_commands().is_some_and(|commands| commands.close.is_some());
        is_closed || flags & (DRAIN | LINE | CUT) != 0 || now >= deadline
    }
}

impl<L: Listener> Drop for Handshake<L> {
    fn drop(&mut self) {
        self.serving.timers.clear(&mut self.alarm);
        // After the handshake, the connection does this.
        if self.io.is_some() {
            self.serving.environment.sessions.remove(&self.session);
            self.session.mailbox().close();
            self.session.ending().close();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::driver::spanned::Spanned;

    /// The state of a handshake is on the heap, so that it is freed after the handshake.
    #[test]
    fn a_connections_task_is_hardly_larger_than_the_connection() {
        let (task, connection) =
            (size_of::<ConnectionTask<TcpListener>>(), size_of::<Driver<TcpStream>>());
        assert!(task <= connection + 8, "{task} bytes over {connection}");
    }

    /// The runtime rounds the size of a task up to a multiple of 128 bytes, of which it uses 96.
    #[test]
    fn an_idle_connections_task_takes_384_bytes() {
        let task = size_of::<Spanned<ConnectionTask<TcpListener>>>();
        // In tests the line decoder has an additional counter.
        let counter = size_of::<usize>();
        assert!(task <= 384 - 96 + counter, "{task} bytes");
    }
}

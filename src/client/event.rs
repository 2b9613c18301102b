//! What happens to a connection, as a stream.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use uuid::Uuid;

use crate::{
    client::shared::wake,
    coop::poll_budgeted,
    error::ConnectionError,
    protocol::{Hello, Reason, RequestId, Topic},
    sync::{Arc, Mutex, Weak},
};

/// Events that a stream holds for its reader.
const HELD: usize = 256;

/// Something that happened to a client's connection, beside the replies and notifications.
///
/// These are all there are. `Ended` comes once, as the last. A client of one connection
/// ([`Client::new`](crate::Client::new)) has `Connected` once, at its beginning. One that connects
/// anew goes round: `Connecting` for each address whose turn it is, of which several may be under way at
/// once, `ConnectFailed` for each that has failed, and `Connected` for the first that has not; and
/// once that connection is over, `Disconnected`, and `Connecting` again, each after a pause
/// ([`reconnect_base`](crate::ClientConfig::reconnect_base)). A server that says goodbye is `Leaving`
/// first: the client then connects elsewhere, after the same pause, while what is under way with that
/// server goes on, so that its `Disconnected` may come behind the next `Connected`; the session tells
/// them apart. The others come any number of times, in the order in which their lines were read (`Bye`
/// too: a server may say goodbye in two steps). [`ClientStats`](crate::ClientStats) counts the stray
/// replies and the violations, whether or not anybody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// An attempt to connect to an address begins. It has no event of its own if another address is
    /// connected before it.
    Connecting {
        /// The address that is tried.
        address: String,
        /// Attempts since there was a connection, from 1.
        attempt: u32,
    },
    /// An attempt to connect failed. The client goes on, unless `Ended` follows.
    ConnectFailed {
        /// The address that was tried.
        address: String,
        /// Why.
        error: ConnectionError,
    },
    /// The server said hello, and knows who this is: calls are on their way.
    Connected(Hello),
    /// A connection is over. The client goes on, unless `Ended` follows.
    Disconnected {
        /// The session, as its `Connected` named it.
        session: Uuid,
        /// Why.
        error: ConnectionError,
    },
    /// So many one-way requests, which a connection that ended was not offered, were dropped: they are
    /// too long for the server of this one, or the client ends.
    OneWaysDropped(u64),
    /// The reply to a call came whose caller was gone: dropped, or past its deadline. It is in
    /// order, and was thrown away.
    LateReply(RequestId),
    /// A line came for a request that had had its terminal line; it was ignored, or, in
    /// [strict mode](crate::ClientConfig::strict), is why the connection ends.
    DoubledReply(RequestId),
    /// A reply came to a request that was never sent; as `DoubledReply` in all else.
    UnaskedReply(RequestId),
    /// The server did not answer a `/renew` with where the topics stand, for this reason. What went
    /// missing without a word is not noticed until it does.
    RenewalFailed(Reason),
    /// The server reports a fault that no request's id owns.
    ServerError {
        /// The id of the line at fault, where the server could read one.
        id: Option<RequestId>,
        /// What was wrong.
        reason: Reason,
    },
    /// The server broke the order of a topic's numbers, and the line was ignored; or it sent beyond
    /// the topic's window, and the notification was delivered all the same.
    Violation(Topic),
    /// The server is about to go away: no call and no subscription is begun on this connection any
    /// more. Calls in flight go on, and so do subscriptions, until it is over.
    Leaving(Reason),
    /// The server is going away: nothing new is sent to it, and what it has taken is finished.
    Bye(Reason),
    /// A [`Listening`](crate::Listening) is over: its topic is left, and what waited for it to have
    /// [`seen`](crate::Listening::seen) something has ended. Comes once for each, in whatever way it
    /// ended, unless the client ended first.
    ListeningEnded {
        /// The topic.
        topic: Topic,
        /// How it ended.
        end: ListeningEnd,
    },
    /// A [`resync`](crate::Subscribe::resync) callback or its future panicked: that attempt failed.
    ResyncPanicked {
        /// The topic.
        topic: Topic,
        /// The message of the panic.
        message: String,
    },
    /// The client is over: nothing goes on.
    Ended(ConnectionError),
    /// So many events left unread, oldest first, since this stream was not read in time.
    Missed(u64),
}

/// How a [`Listening`](crate::Listening) ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListeningEnd {
    /// The subscription ended, and the closure had its [`Delivery::End`](crate::Delivery::End).
    Over,
    /// The [`Listening`](crate::Listening) was dropped.
    Dropped,
    /// The closure, or the future that it returned, panicked with this message: when it was called,
    /// polled or dropped.
    Panicked(String),
    /// The task was dropped: its runtime has shut down.
    Aborted,
}

/// The streams that hear of events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listeners: Mutex<Vec<Weak<Mutex<Queue>>>>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: VecDeque<ConnectionEvent>,
    missed: u64,
    ended: bool,
    reader: Option<Waker>,
}

/// The streams that an event was queued for, and their readers, to be woken once no lock is held.
#[must_use = "nobody is woken before `wake`"]
pub(crate) struct Queued(Vec<(Arc<Mutex<Queue>>, Option<Waker>)>);

impl Queued {
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(|(_queue, reader)| wake(reader));
    }
}

impl Events {
    pub(crate) fn emit(&self, event: ConnectionEvent) {
        self.queue(&event).wake();
    }

    pub(crate) fn queue(&self, event: &ConnectionEvent) -> Queued {
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        let alive: Vec<_> = listeners.iter().filter_map(Weak::upgrade).collect();
        drop(listeners);
        let queued = alive.into_iter().map(|queue| {
            let reader = queue.lock().push(event.clone());
            (queue, reader)
        });
        Queued(queued.collect())
    }

    pub(crate) fn listen(&self, ended: bool) -> ConnectionEvents {
        let queue = Arc::new(Mutex::new(Queue { ended, ..Queue::default() }));
        if !ended {
            let mut listeners = self.listeners.lock();
            listeners.retain(|listener| listener.strong_count() > 0);
            listeners.push(Arc::downgrade(&queue));
        }
        ConnectionEvents(queue)
    }
}

impl Queue {
    fn push(&mut self, event: ConnectionEvent) -> Option<Waker> {
        if self.ended {
            return None;
        }
        self.ended = matches!(event, ConnectionEvent::Ended(_));
        if self.events.len() == HELD {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(event);
        self.reader.take()
    }
}

/// The events of a client from when they were asked for: [`Client::events`](crate::Client::events).
///
/// Holds up to 256 unread events, each of a line of the server's at most; then the oldest leave, and [`ConnectionEvent::Missed`] says how
/// many. Ends behind [`ConnectionEvent::Ended`].
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct ConnectionEvents(Arc<Mutex<Queue>>);

impl ConnectionEvents {
    /// The next event; `None` behind [`ConnectionEvent::Ended`].
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ConnectionEvents {
    type Item = ConnectionEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        poll_budgeted(cx, |cx| self.poll_event(cx))
    }
}

impl ConnectionEvents {
    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        let mut queue = self.0.lock();
        if queue.missed > 0 {
            return Poll::Ready(Some(ConnectionEvent::Missed(std::mem::take(&mut queue.missed))));
        }
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.ended => Poll::Ready(None),
            None => {
                let unused = queue.reader.replace(cx.waker().clone());
                drop(queue);
                drop(unused);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_listeners_do_not_pile_up() {
        let events = Events::default();
        let kept = events.listen(false);
        (0..100).for_each(|_| drop(events.listen(false)));
        assert_eq!(events.listeners.lock().len(), 2, "the one that is kept, and the last");
        events.emit(ConnectionEvent::Missed(1));
        assert_eq!(events.listeners.lock().len(), 1);
        drop(kept);
        drop(events.listen(true));
        events.emit(ConnectionEvent::Missed(2));
        assert!(events.listeners.lock().is_empty());
    }
}

//! A reader of a topic. It knows where the topic is before it reads.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{command::Order, link::ended, remote::Remote};
use crate::{
    protocol::{Cursor, Topic, Window},
    sync::Arc,
    topic::{
        Read, Room, TopicReader, Unavailable,
        tail::{Tail, TailReader},
    },
};

pub(super) struct RedisReader {
    inner: TailReader<Remote>,
    /// Redis is being asked where the topic is.
    asked: Option<oneshot::Receiver<Window>>,
    is_synced: bool,
    /// Dropped behind `inner`.
    leave: Leave,
}

/// Says when a reader has gone.
struct Leave {
    tail: Arc<Tail<Remote>>,
    topic: Topic,
}

impl RedisReader {
    pub(super) fn new(tail: Arc<Tail<Remote>>, topic: &Topic) -> Self {
        let inner = TailReader::open(&tail, topic);
        let leave = Leave { tail, topic: topic.clone() };
        Self { inner, asked: None, is_synced: false, leave }
    }

    /// Where Redis says that the topic is, asked for by this call or by the one that was pending.
    fn poll_sync(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        if self.asked.is_none() {
            let (waiting, asked) = oneshot::channel();
            let Leave { tail, topic } = &self.leave;
            tail.archive.order(Order::Sync(topic.clone(), waiting))?;
            self.asked = Some(asked);
        }
        let Some(asked) = &mut self.asked else { return Poll::Pending };
        let window = ready!(Pin::new(asked).poll(cx));
        self.asked = None;
        self.is_synced |= window.is_ok();
        Poll::Ready(window.map_err(|_| ended()))
    }
}

impl TopicReader for RedisReader {
    /// Asks Redis each time: a message that was published at another server is in the window.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        let reported = ready!(self.poll_sync(cx))?;
        let window = ready!(self.inner.poll_window(cx))?;
        let is_same = reported.epoch == window.epoch;
        let next = if is_same { window.next.max(reported.next) } else { window.next };
        Poll::Ready(Ok(Window { next, ..window }))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        if !self.is_synced {
            ready!(self.poll_sync(cx))?;
        }
        self.inner.poll_read(cx, cursor, room, out)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.tail.find(&self.topic).is_none() {
            // After the end there is no channel to leave.
            let _ = self.tail.archive.order(Order::Left(self.topic.clone()));
        }
    }
}

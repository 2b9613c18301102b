//! Redis as the archive of the tail, and what readers ask of the tasks.

use tokio::sync::mpsc;

use super::{
    census::Census,
    command::{Append, Command, Order},
    link::{Link, ended},
};
use crate::{
    protocol::{Code, Epoch, Position, Topic},
    sync::{Arc, AtomicUsize, Ordering},
    topic::{
        BoxFuture, Unavailable,
        tail::{Archive, Ask, Fetched, Tail},
    },
};

/// How to reach the tasks.
pub(super) struct Remote {
    pub(super) link: Arc<Link>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) census: Census,
    /// The epoch of the tail of a topic until Redis has said which one its log has.
    pub(super) unknown: Epoch,
    /// Bytes of messages that wait to be sent, or for their answer.
    pub(super) queued: AtomicUsize,
}

impl Remote {
    /// Lets a message wait to be sent, if there is a connection and room.
    pub(super) fn queue(&self, append: Append, limit: usize) -> Result<(), Unavailable> {
        self.link.check()?;
        let bytes = append.bytes();
        let before = self.queued.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit && before > 0 {
            self.written(bytes);
            return Err(Unavailable(format!("{before} bytes of messages wait for Redis")));
        }
        self.link.send(Command::Append(append)).inspect_err(|_| self.written(bytes))
    }

    /// So many bytes no longer wait.
    pub(super) fn written(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Gives an order to the task that listens.
    pub(super) fn order(&self, order: Order) -> Result<(), Unavailable> {
        self.orders.send(order).map_err(|_| ended())
    }
}

impl Archive for Remote {
    /// A stream loses its oldest messages, or all.
    const LOST: Code = Code::RETENTION;

    fn fetch(&self, ask: Ask) -> BoxFuture<Result<Vec<Fetched>, Unavailable>> {
        let (link, orders) = (self.link.clone(), self.orders.clone());
        Box::pin(async move {
            let ask = &ask;
            let read = link.read(|connection| async move { connection.fetch(ask).await });
            let (is_current, found) = read.await?;
            if !is_current {
                // If the log was not closed but lost, the readers have to learn that.
                orders.send(Order::Doubt(ask.topic.clone())).map_err(|_| ended())?;
            }
            Ok(found)
        })
    }

    fn discard(&self, _: u64) {}
}

/// What the tasks do with the tail.
pub(super) trait Followed {
    /// The log of a topic was closed at `end`.
    fn end(&self, topic: &Topic, end: Position);
}

impl Followed for Tail<Remote> {
    fn end(&self, topic: &Topic, end: Position) {
        if let Some(kept) = self.find(topic) {
            self.finish(&kept, end);
        }
    }
}

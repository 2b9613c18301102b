//! A slow topic store: each of its answers needs a permit.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bellwire::{
    PublishError, Published, Random,
    protocol::{Cursor, Topic, Window},
    topic::{BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bytes::Bytes;
use tokio::sync::Semaphore;

/// Logs in memory, behind two semaphores.
#[derive(Clone)]
pub struct SlowStore {
    memory: MemoryTopics,
    /// One permit lets one message be confirmed. The message has its number before that.
    pub appends: Arc<Semaphore>,
    /// One permit lets one subscription begin.
    pub windows: Arc<Semaphore>,
}

impl SlowStore {
    pub fn new() -> Self {
        let gate = || Arc::new(Semaphore::new(0));
        Self { memory: MemoryTopics::new(&Random::seeded(1)), appends: gate(), windows: gate() }
    }
}

impl TopicStore for SlowStore {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        let (appended, gate) = (self.memory.append(topic, payload), self.appends.clone());
        Box::pin(async move {
            gate.acquire().await.expect("never closed").forget();
            appended.await
        })
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let gate = self.windows.clone();
        let permit = Box::pin(async move { gate.acquire().await.expect("never closed").forget() });
        Box::new(SlowReader { reader: self.memory.open(topic), permit: Some(permit) })
    }
}

struct SlowReader {
    reader: Box<dyn TopicReader>,
    permit: Option<BoxFuture<()>>,
}

impl TopicReader for SlowReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        if let Some(permit) = &mut self.permit {
            std::task::ready!(permit.as_mut().poll(cx));
            self.permit = None;
        }
        self.reader.poll_window(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        self.reader.poll_read(cx, cursor, room, out)
    }
}

//! The three flush policies: when a task writes the lines that others have encoded.

use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt, net::tcp::OwnedWriteHalf, sync::Notify, task::yield_now};

use crate::bare::CHUNK;

/// What the writing task does after a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Writes all available lines at once.
    AtOnce,
    /// Yields before the first write, so that all ready callers encode their requests. Then it
    /// writes until nothing is left.
    YieldFirst,
    /// Yields before each write.
    YieldEach,
}

/// Encoded lines for the writing task.
#[derive(Debug, Default)]
pub struct Outbox {
    lines: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    /// Starts the writing task.
    pub fn start(socket: OwnedWriteHalf, flush: Flush) -> Arc<Self> {
        let outbox = Arc::new(Self::default());
        tokio::spawn(outbox.clone().write(socket, flush));
        outbox
    }

    pub fn push(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.lines.lock();
        let was_empty = lines.is_empty();
        encode(&mut lines);
        drop(lines);
        if was_empty {
            self.filled.notify_one();
        }
    }

    async fn write(self: Arc<Self>, mut socket: OwnedWriteHalf, flush: Flush) -> Result<()> {
        let mut batch = Vec::with_capacity(CHUNK);
        loop {
            self.filled.notified().await;
            if flush == Flush::YieldFirst {
                yield_now().await;
            }
            loop {
                if flush == Flush::YieldEach {
                    yield_now().await;
                }
                std::mem::swap(&mut batch, &mut *self.lines.lock());
                if batch.is_empty() {
                    break;
                }
                socket.write_all(&batch).await?;
                batch.clear();
            }
        }
    }
}

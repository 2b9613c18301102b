//! Protection against floods of tiny reads that bring no payload: pings, empty frames, and headers
//! in pieces. Each costs a wake-up. Those that bring payload are counted by the server's core.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// A read of fewer bytes, without payload, is overhead.
const TINY: usize = 256;
/// Reads of overhead that are allowed before there is a pause.
const ALLOWED: u8 = 32;
/// How many of them any other read makes up for.
const MADE_GOOD: u8 = 4;
/// The length of a pause.
const PAUSE: Duration = Duration::from_millis(10);

/// Counts reads that bring nothing. After too many, the peer is read once per pause.
#[derive(Debug, Default)]
pub(super) struct Overhead {
    count: u8,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Overhead {
    /// Counts a read of `bytes` bytes, of which `payload` were payload.
    pub(super) fn count(&mut self, bytes: usize, payload: usize) {
        if bytes >= TINY || payload > 0 {
            self.count = self.count.saturating_sub(MADE_GOOD);
        } else if self.count < ALLOWED {
            self.count += 1;
        } else {
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
    }

    /// Waits until nothing is to be paused.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

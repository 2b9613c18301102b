//! Floods of tiny writes: each costs a wake-up, and few of them make a line.
//!
//! After enough of them the connection is read only once per tick of the timers, so that a flood of
//! tiny writes takes little processor time. Other peers are not delayed: one that writes whole
//! lines, or large pieces of one, is read at once.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{protocol::Time, server::core::connection::Connection};

/// A read of fewer bytes, with no end of a line among them, is tiny.
const TINY: usize = 256;
/// Tiny reads that are borne before there is a pause.
const BORNE: u8 = 32;
/// What any other read makes good: a line may come in five pieces for ever.
const MADE_GOOD: u8 = 4;
/// How long the bytes are left to gather: a tick of the timers.
const PAUSE: Duration = Duration::from_millis(10);

/// How many tiny reads there were, and until when nothing is read for it.
#[derive(Debug, Default)]
pub(super) struct TinyReads {
    count: u8,
    pause: Option<Time>,
}

impl TinyReads {
    pub(super) fn is_pausing(&self) -> bool {
        self.pause.is_some()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub(super) fn count_tiny_read(&mut self, bytes: &[u8]) {
        let is_tiny = bytes.len() < TINY && memchr::memchr(b'\n', bytes).is_none();
        let TinyReads { count, pause } = &mut self.tiny_reads;
        if !is_tiny {
            *count = count.saturating_sub(MADE_GOOD);
        } else if *count < BORNE {
            *count += 1;
        } else {
            *pause = Some(self.heard.after(PAUSE));
        }
    }

    /// Whether nothing is to be read for now; the alarm rings when it is.
    pub(super) fn is_pausing(&mut self) -> bool {
        let Some(until) = self.tiny_reads.pause else { return false };
        if self.now() >= until {
            self.tiny_reads.pause = None;
            return false;
        }
        self.set_alarm(until);
        true
    }
}

//! Protocol requests that were read and wait behind a `/subscribe` (docs/protocol/calls.md, section
//! 12).
//!
//! A `/subscribe` may wait for the authorizer, or for its store. Protocol requests take effect in line
//! order, so those behind it wait here. All else is obeyed meanwhile: application requests, and the
//! protocol's one-way lines, such as a `/cancel`. A `/renew` that waits has renewed the lease already.

use std::collections::VecDeque;

/// What a line takes here beside its bytes.
pub(super) const LINE: usize = size_of::<Vec<u8>>();

#[derive(Default)]
pub(super) struct Deferred {
    /// In line order, without their LFs. A `/subscribe` that waits for the authorizer is the first.
    pub(super) lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The peer has closed its direction behind these lines.
    pub(super) has_ended: bool,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && !self.has_ended
    }

    /// What it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing more is read: the peer has closed its direction.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn push_back(&mut self, line: &[u8]) {
        self.bytes += line.len() + LINE;
        self.lines.push_back(line.to_vec());
    }

    pub(super) fn push_front(&mut self, line: Vec<u8>) {
        self.bytes += line.len() + LINE;
        self.lines.push_front(line);
    }

    pub(super) fn pop_front(&mut self) -> Option<Vec<u8>> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.len() + LINE;
        Some(line)
    }
}

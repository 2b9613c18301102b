//! Protocol requests that were read and wait for an earlier `/subscribe` (docs/protocol/calls.md,
//! section 12).
//!
//! A `/subscribe` may wait for the authorizer, or for its store. Protocol requests take effect in
//! line order, so later ones wait here. All other lines are processed meanwhile: application
//! requests, and the protocol's one-way lines, such as a `/cancel`. A deferred `/renew` renews the
//! lease when it is read.

use std::collections::VecDeque;

/// The memory of a line here, besides its bytes.
pub(super) const LINE: usize = size_of::<Vec<u8>>();

#[derive(Default)]
pub(super) struct Deferred {
    /// In line order, without their LFs. If a `/subscribe` waits for the authorizer, it is the
    /// first.
    pub(super) lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The peer has closed its direction after these lines.
    pub(super) has_ended: bool,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && !self.has_ended
    }

    /// The bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the peer has closed its direction, so that nothing more is read.
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

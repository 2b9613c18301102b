//! The calls that wait for their terminal line: a map of id to pending one-shot.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use bytes::Bytes;

use crate::{
    error::CallError,
    protocol::{AttributeList, RequestId, Topic},
    sync::oneshot,
};

/// What `ok` brought.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) attributes: AttributeList,
    pub(crate) payload: Bytes,
}

pub(crate) type CallResult = Result<Reply, CallError>;

/// Who waits for a terminal line.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// An application call. It holds a place in flight.
    Call(oneshot::Sender<CallResult>),
    /// A dropped application call: its place is held until the terminal line, which is late then.
    Tombstone,
    /// A request of the protocol's own that lists things, item by item.
    List(Vec<Bytes>, oneshot::Sender<Result<Vec<Bytes>, CallError>>),
    /// `/subscribe`.
    Subscribe(Topic),
    /// `/unsubscribe`.
    Unsubscribe(Topic),
    /// `/renew`.
    Renew,
    /// `/hello` or `/quit`: the reply says nothing that is not known by then.
    Formality,
}

impl Waiter {
    /// Whether it holds one of the places in flight.
    pub(crate) fn holds_place(&self) -> bool {
        matches!(self, Self::Call(_) | Self::Tombstone)
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) waiter: Waiter,
    /// Where in the outbound stream the request's LF ends: what tells sent from not sent.
    pub(crate) line_end: u64,
}

/// The pending calls of a connection.
///
/// **Invariant:** an entry leaves before its waiter is told, and ids are never reused, so a second
/// reply finds nobody.
///
/// The table lives behind the lock that orders the outbound lines anyway, so a plain map serves;
/// `benches/pending.rs` has it beside a sharded one.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    entries: HashMap<u64, Entry, BuildHasherDefault<IdHasher>>,
}

impl Pending {
    pub(crate) fn insert(&mut self, id: RequestId, entry: Entry) {
        self.entries.insert(id.get(), entry);
    }

    /// Takes out who waits for `id`: its terminal line is there.
    pub(crate) fn complete(&mut self, id: RequestId) -> Option<Entry> {
        self.entries.remove(&id.get())
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Entry> {
        self.entries.get_mut(&id.get())
    }

    /// The caller of `id` is gone: leaves a tombstone. Whether there was one to leave.
    pub(crate) fn cancel(&mut self, id: RequestId) -> bool {
        match self.entries.get_mut(&id.get()) {
            Some(entry) if matches!(entry.waiter, Waiter::Call(_)) => {
                entry.waiter = Waiter::Tombstone;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes out everybody, in the order of their ids.
    pub(crate) fn drain(&mut self) -> Vec<(u64, Entry)> {
        let mut all: Vec<_> = self.entries.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }
}

/// Hashes ids. This side chooses them, so there is nobody to defend against.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    /// Spreads consecutive ids over both ends of the word: the map takes its slot from the low
    /// bits and its tag from the high ones.
    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u64) -> RequestId {
        RequestId::new(id).unwrap()
    }

    fn call() -> (Entry, oneshot::Receiver<CallResult>) {
        let (sender, receiver) = oneshot::channel();
        (Entry { waiter: Waiter::Call(sender), line_end: 0 }, receiver)
    }

    #[test]
    fn a_second_reply_finds_nobody() {
        let mut pending = Pending::default();
        pending.insert(id(1), call().0);
        assert!(pending.complete(id(1)).is_some());
        assert!(pending.complete(id(1)).is_none());
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn a_cancelled_call_holds_its_place_until_its_terminal_line() {
        let mut pending = Pending::default();
        pending.insert(id(1), call().0);
        assert!(pending.cancel(id(1)));
        assert!(!pending.cancel(id(1)));
        assert!(!pending.cancel(id(2)));
        let entry = pending.complete(id(1)).unwrap();
        assert!(entry.waiter.holds_place());
        assert!(matches!(entry.waiter, Waiter::Tombstone));
    }

    #[test]
    fn all_are_drained_in_the_order_of_their_ids() {
        let mut pending = Pending::default();
        for n in [5, 1, 9, 3] {
            pending.insert(id(n), Entry { waiter: Waiter::Formality, line_end: n });
        }
        let ends: Vec<_> = pending.drain().iter().map(|(_, entry)| entry.line_end).collect();
        assert_eq!(ends, [1, 3, 5, 9]);
    }
}

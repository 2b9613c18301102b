//! The table of requests that wait for their terminal line: a map of id to waiter.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// The waiter of each id. Public with `unstable-core`, for `benches/pending.rs`, which compares it
/// with a sharded map.
///
/// **Invariant:** an entry is removed before its waiter is woken, and ids are never reused, so a
/// second reply matches no waiter.
///
/// A plain map is enough. The table is behind the lock that orders the outbound lines: a request
/// gets its id, its entry and its place in the outbound stream under one lock. A sharded map would
/// need a second one.
#[derive(Debug)]
pub struct Pending<W> {
    waiters: HashMap<u64, W, BuildHasherDefault<IdHasher>>,
}

impl<W> Default for Pending<W> {
    fn default() -> Self {
        Self { waiters: HashMap::default() }
    }
}

impl<W> Pending<W> {
    /// Inserts the waiter for `id`.
    pub fn insert(&mut self, id: u64, waiter: W) {
        self.waiters.insert(id, waiter);
    }

    /// Removes the waiter for `id`, because its terminal line has arrived.
    pub fn complete(&mut self, id: u64) -> Option<W> {
        self.waiters.remove(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut W> {
        self.waiters.get_mut(&id)
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.waiters.contains_key(&id)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut W> {
        self.waiters.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// The ids of the waiters for which `is_wanted` holds, in order.
    pub(crate) fn ids_where(&self, is_wanted: impl Fn(&W) -> bool) -> Vec<u64> {
        let wanted = self.waiters.iter().filter(|(_, waiter)| is_wanted(waiter));
        let mut ids: Vec<_> = wanted.map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Removes the waiters for which `is_wanted` holds, in the order of their ids.
    pub(crate) fn take_where(&mut self, is_wanted: impl Fn(&W) -> bool) -> Vec<W> {
        let ids = self.ids_where(is_wanted);
        ids.iter().filter_map(|id| self.waiters.remove(id)).collect()
    }

    /// Removes all waiters, in the order of their ids.
    pub(crate) fn drain(&mut self) -> Vec<(u64, W)> {
        let mut all: Vec<_> = self.waiters.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }
}

/// Hashes ids. This side chooses the ids, so the hash needs no protection against an attacker.
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

    /// Spreads consecutive ids over the low and the high bits, because the map takes the slot from
    /// the low bits and the tag from the high bits.
    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_reply_matches_no_waiter() {
        let mut pending = Pending::default();
        pending.insert(1, "caller");
        assert_eq!(pending.complete(1), Some("caller"));
        assert_eq!(pending.complete(1), None);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn all_are_drained_in_the_order_of_their_ids() {
        let mut pending = Pending::default();
        [5, 1, 9, 3].into_iter().for_each(|id| pending.insert(id, ()));
        let ids: Vec<_> = pending.drain().iter().map(|(id, ())| *id).collect();
        assert_eq!(ids, [1, 3, 5, 9]);
    }
}

//! What each owner holds of a bounded table, so that none can fill it for all others.
//!
//! Nothing that is held can be taken back before its time. So an owner is refused before the table
//! is full: as soon as it holds more than is free. A single owner gets half of the table, two get a
//! third each. The room that is left is for owners that hold less.

use std::{collections::HashMap, net::IpAddr};

use crate::{server::keys::config::Bounds, sync::Arc};

/// On whose account an entry goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) enum Owner {
    Principal(Arc<str>),
    /// The anonymous peers of an address.
    Network(IpAddr),
    /// The anonymous peers without an address.
    Nobody,
}

/// What is held, together and by each owner.
#[derive(Debug, Default)]
pub(super) struct Shares {
    held: Bounds,
    /// Peers choose the keys in part, so the hasher has to be seeded, like the standard library's.
    by_owner: HashMap<Owner, Bounds>,
}

impl Shares {
    /// Whether an owner may have another entry, of so many bytes.
    pub(super) fn has_room(&self, owner: &Owner, bytes: usize, bounds: Bounds) -> bool {
        let entries = bounds.entries.saturating_sub(self.held.entries);
        let free = Bounds { entries, bytes: bounds.bytes.saturating_sub(self.held.bytes) };
        let own = self.by_owner.get(owner).copied().unwrap_or_default();
        let fits = free.entries > 0 && bytes <= free.bytes;
        fits && own.entries <= free.entries && own.bytes <= free.bytes
    }

    pub(super) fn add(&mut self, owner: &Owner, bytes: usize) {
        let own = self.by_owner.entry(owner.clone()).or_default();
        for held in [&mut self.held, own] {
            held.entries += 1;
            held.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, owner: &Owner, bytes: usize) {
        self.held.entries -= 1;
        self.held.bytes -= bytes;
        let Some(own) = self.by_owner.get_mut(owner) else { return };
        own.entries -= 1;
        own.bytes -= bytes;
        if own.entries == 0 {
            self.by_owner.remove(owner);
        }
        if self.by_owner.is_empty() {
            self.by_owner = HashMap::new();
        }
    }

    /// An entry of `from` bytes has `to` bytes now.
    pub(super) fn resize(&mut self, owner: &Owner, from: usize, to: usize) {
        let own = self.by_owner.get_mut(owner);
        for held in [&mut self.held].into_iter().chain(own) {
            held.bytes = held.bytes - from + to;
        }
    }

    /// The bytes of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.held.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Owner {
        Owner::Principal(name.into())
    }

    /// Lets an owner take entries of 10 bytes until it is refused. Returns how many.
    fn fill(shares: &mut Shares, owner: &Owner, bounds: Bounds) -> usize {
        let mut taken = 0;
        while shares.has_room(owner, 10, bounds) {
            shares.add(owner, 10);
            taken += 1;
        }
        taken
    }

    #[test]
    fn an_owner_takes_half_of_what_is_free() {
        let by_entries = Bounds { entries: 100, bytes: 1 << 20 };
        let by_bytes = Bounds { entries: 1 << 20, bytes: 1_000 };
        for bounds in [by_entries, by_bytes] {
            let mut shares = Shares::default();
            let taken = ["a", "b", "c"].map(|name| fill(&mut shares, &named(name), bounds));
            assert_eq!(taken, [51, 25, 13]);
            assert_eq!(fill(&mut shares, &Owner::Nobody, bounds), 6);
            assert_eq!(fill(&mut shares, &named("a"), bounds), 0);
            // What one gives back, others may have.
            (0..taken[0]).for_each(|_| shares.remove(&named("a"), 10));
            assert_eq!(fill(&mut shares, &named("c"), bounds), 22);
        }
    }

    #[test]
    fn nothing_is_left_of_owners_without_entries() {
        let mut shares = Shares::default();
        for round in 0..3 {
            let owner = Owner::Network([10, 0, 0, round].into());
            shares.add(&owner, 7);
            shares.resize(&owner, 7, 9);
            assert_eq!((shares.bytes(), shares.by_owner.len()), (9, 1));
            shares.remove(&owner, 9);
        }
        assert_eq!((shares.held, shares.by_owner.len()), (Bounds::default(), 0));
    }
}

//! The offers that a server knows, in memory.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::offer::{Offer, Summary};

/// The greatest integer that every JSON reader represents exactly.
const MAX_ID: NonZeroU64 = NonZeroU64::new((1 << 53) - 1).expect("not zero");

/// Offers by id. An offer stays even if its file is removed.
#[derive(Debug, Default)]
pub(crate) struct Store(Mutex<BTreeMap<NonZeroU64, Offer>>);

/// The effect of [`Store::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    New,
    Changed,
    Same,
}

impl Store {
    pub(crate) fn get(&self, id: NonZeroU64) -> Option<Offer> {
        self.offers().get(&id).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.offers().len()
    }

    /// The first offer with an id above `after`, in short form.
    pub(crate) fn next(&self, after: Option<NonZeroU64>) -> Option<Summary> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let offers = self.offers();
        offers.range((after, Bound::Unbounded)).next().map(|(_, offer)| offer.into())
    }

    /// Adds or replaces an offer. The caller that gets [`Put::New`] or [`Put::Changed`] publishes
    /// it, so that each offer is published once, from whichever source it came first.
    pub(crate) fn put(&self, offer: Offer) -> Put {
        let mut offers = self.offers();
        let put = match offers.get(&offer.id) {
            None => Put::New,
            Some(known) if *known == offer => Put::Same,
            Some(_) => Put::Changed,
        };
        offers.insert(offer.id, offer);
        put
    }

    /// An id for a new offer: one above the greatest id, as long as JSON represents it exactly. If
    /// an offer has the last such id, the lowest free one.
    pub(crate) fn free_id(&self) -> Option<NonZeroU64> {
        let offers = self.offers();
        let above = match offers.range(..=MAX_ID).next_back() {
            Some((last, _)) => last.checked_add(1),
            None => Some(NonZeroU64::MIN),
        };
        above.filter(|id| *id <= MAX_ID).or_else(|| {
            let free = (1..).zip(offers.keys()).find(|(free, id)| id.get() != *free);
            free.and_then(|(free, _)| NonZeroU64::new(free))
        })
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<NonZeroU64, Offer>> {
        // A holder of the lock does not panic in the middle of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::offer::Flat, *};

    fn offer(id: u64, title: &str) -> Offer {
        let (area, city, description) = (None, None, None);
        let flat = Flat { title: title.into(), rent: 500, area, city, description };
        Offer { id: NonZeroU64::new(id).unwrap(), flat }
    }

    #[test]
    fn known_offers_are_distinguished_from_new_ones() {
        let store = Store::default();
        assert_eq!(store.free_id(), NonZeroU64::new(1));
        assert_eq!(store.put(offer(7, "loft")), Put::New);
        assert_eq!(store.put(offer(7, "loft")), Put::Same);
        assert_eq!(store.put(offer(7, "attic")), Put::Changed);
        assert_eq!(store.free_id(), NonZeroU64::new(8));
        assert_eq!(store.len(), 1);
        assert_eq!(store.get(offer(7, "").id), Some(offer(7, "attic")));
    }

    #[test]
    fn next_iterates_over_all_offers() {
        let store = Store::default();
        [9, 3, 250, 7].into_iter().for_each(|id| _ = store.put(offer(id, "loft")));
        let first = store.next(None);
        let ids = std::iter::successors(first, |last| store.next(Some(last.id)));
        assert_eq!(ids.map(|summary| summary.id.get()).collect::<Vec<_>>(), [3, 7, 9, 250]);
    }

    /// There is always an id for the next offer.
    #[test]
    fn extreme_ids_leave_a_free_one() {
        let store = Store::default();
        store.put(offer(u64::MAX, "last"));
        assert_eq!(store.free_id(), NonZeroU64::new(1));
        store.put(offer(1, "first"));
        store.put(offer(1 << 53, "beyond"));
        assert_eq!(store.free_id(), NonZeroU64::new(2));
        store.put(offer(MAX_ID.get() - 1, "last but one"));
        assert_eq!(store.free_id(), Some(MAX_ID));
        store.put(offer(MAX_ID.get(), "last that is given"));
        assert_eq!(store.free_id(), NonZeroU64::new(2));
    }
}

//! The offers a server knows, in memory.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::offer::{Offer, Summary};

/// The most offers in one page of the list.
const PAGE: usize = 100;
/// Titles are cut out of a page past this many bytes, so that it fits into a line.
const PAGE_BYTES: usize = 32 * 1024;

/// Offers by id. An offer that came once stays, whatever becomes of the file it came from.
#[derive(Debug, Default)]
pub(crate) struct Store(Mutex<BTreeMap<NonZeroU64, Offer>>);

/// What [`Store::put`] did.
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

    /// The offers with an id above `after`, as many as fit into a page.
    pub(crate) fn page(&self, after: Option<NonZeroU64>) -> Vec<Summary> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut room = PAGE_BYTES;
        let offers = self.offers();
        let summaries = offers.range((after, Bound::Unbounded)).map(|(_, offer)| offer.into());
        let fits = |summary: &Summary| {
            let first = room == PAGE_BYTES;
            // JSON writes a byte as six at most.
            room = room.saturating_sub(6 * summary.title.len() + 64);
            first || room > 0
        };
        summaries.take(PAGE).take_while(fits).collect()
    }

    /// Adds or replaces an offer. Who gets [`Put::New`] or [`Put::Changed`] tells the subscribers,
    /// so that each offer is told of once, whichever way it came first.
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

    /// The lowest id above all others.
    pub(crate) fn free_id(&self) -> Option<NonZeroU64> {
        match self.offers().last_key_value() {
            Some((last, _)) => last.checked_add(1),
            None => Some(NonZeroU64::MIN),
        }
    }

    fn offers(&self) -> MutexGuard<'_, BTreeMap<NonZeroU64, Offer>> {
        // No holder panics half way through a change.
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
    fn what_is_known_is_told_from_what_is_new() {
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
    fn pages_are_bounded_and_lead_through_all() {
        let store = Store::default();
        let long = "x".repeat(5_000);
        for id in 1..=250 {
            store.put(offer(id, if id > 240 { &long } else { "short" }));
        }
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = store.page(after);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            assert!(serde_json::to_string(&page).unwrap().len() < 60_000);
            pages.push(page.len());
        }
        assert_eq!(pages[..3], [100, 100, 40]);
        assert_eq!(pages.iter().sum::<usize>(), 250);
    }

    #[test]
    fn the_last_id_of_all_leaves_no_free_one() {
        let store = Store::default();
        store.put(offer(u64::MAX, "last"));
        assert_eq!(store.free_id(), None);
    }
}

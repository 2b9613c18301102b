//! The tasks that wait at the head of a log.

use std::task::Waker;

/// The readers of one log, and which of them wait at its head.
///
/// Only a reader that has caught up is in `waiting`, so a burst of publishes wakes each reader
/// once.
///
/// A reader is identified by its index in `wakers`. There is one reader for each subscription, so
/// `u32` is enough.
#[derive(Debug, Default)]
pub(super) struct Readers {
    wakers: Vec<Option<Waker>>,
    /// The index of each reader in `waiting`, if it has a waker.
    places: Vec<u32>,
    free: Vec<u32>,
    /// Readers with a waker, in the order in which they began to wait.
    waiting: Vec<u32>,
}

impl Readers {
    pub(super) fn add(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.places.push(0);
            short(self.wakers.len() - 1)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wakers.len() == self.free.len()
    }

    pub(super) fn len(&self) -> usize {
        self.wakers.len() - self.free.len()
    }

    /// Stores `waker`. Returns the waker that it replaces, which must be dropped outside the locks.
    pub(super) fn wait(&mut self, slot: u32, waker: &Waker) -> Option<Waker> {
        let known = &mut self.wakers[slot as usize];
        if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return None;
        }
        let before = known.replace(waker.clone());
        if before.is_none() {
            self.places[slot as usize] = short(self.waiting.len());
            self.waiting.push(slot);
        }
        before
    }

    pub(super) fn take_waiting(&mut self) -> Vec<Waker> {
        let wakers = &mut self.wakers;
        self.waiting.drain(..).filter_map(|slot| wakers[slot as usize].take()).collect()
    }

    /// Removes a reader. Returns its waker, which must be dropped outside the locks. When the last
    /// reader leaves, the memory of all readers is given back.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Waker> {
        self.free.push(slot);
        let waker = self.wakers[slot as usize].take();
        if waker.is_some() {
            let place = self.places[slot as usize];
            self.waiting.swap_remove(place as usize);
            if let Some(&moved) = self.waiting.get(place as usize) {
                self.places[moved as usize] = place;
            }
        }
        if self.is_empty() {
            *self = Self::default();
        }
        waker
    }
}

fn short(place: usize) -> u32 {
    u32::try_from(place).expect("the readers of a log fit into memory")
}

#[cfg(test)]
mod tests {
    use std::mem;

    use super::*;
    use crate::sync::Arc;

    /// The next message wakes a waiting reader, whichever other readers come and go.
    #[test]
    fn a_waiting_reader_is_woken_though_others_leave() {
        use crate::sync::{AtomicUsize, Ordering};

        #[derive(Default)]
        struct Woken(AtomicUsize);

        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        let (mut readers, mut rng) = (Readers::default(), fastrand::Rng::with_seed(1));
        // For each reader: its slot, its waker, and whether it waits.
        let mut known: Vec<(u32, Arc<Woken>, bool)> = Vec::new();
        for step in 0..20_000 {
            let at = rng.usize(..known.len().max(1));
            match rng.u8(..8) {
                0 | 1 if known.len() < 8 => known.push((readers.add(), Arc::default(), false)),
                2 if at < known.len() => {
                    let (slot, _, waits) = known.swap_remove(at);
                    assert_eq!(readers.remove(slot).is_some(), waits, "step {step}");
                }
                3 => {
                    readers.take_waiting().into_iter().for_each(Waker::wake);
                    for (_, woken, waits) in &mut known {
                        let count = woken.0.swap(0, Ordering::Relaxed);
                        assert_eq!(count, usize::from(mem::take(waits)), "step {step}");
                    }
                }
                _ => {
                    let Some((slot, woken, waits)) = known.get_mut(at) else { continue };
                    readers.wait(*slot, &Waker::from(woken.clone()));
                    *waits = true;
                }
            }
            assert_eq!(readers.is_empty(), known.is_empty());
        }
    }

    #[test]
    fn waiting_readers_do_not_accumulate() {
        let mut readers = Readers::default();
        let waker = Waker::noop();
        let kept = readers.add();
        for _ in 0..100 {
            let slot = readers.add();
            readers.wait(slot, waker);
            readers.wait(kept, waker);
            readers.wait(slot, waker);
            readers.remove(slot);
        }
        assert_eq!((readers.wakers.len(), readers.waiting.len()), (2, 1));
        assert_eq!(readers.take_waiting().len(), 1);
        assert_eq!(readers.take_waiting().len(), 0);
        readers.remove(kept);
        assert!(readers.is_empty());
    }

    #[test]
    fn the_last_reader_frees_the_memory_of_all() {
        let mut readers = Readers::default();
        for _ in 0..3 {
            let slots: Vec<_> = (0..1_000).map(|_| readers.add()).collect();
            slots.iter().for_each(|&slot| drop(readers.wait(slot, Waker::noop())));
            slots.into_iter().for_each(|slot| drop(readers.remove(slot)));
            let Readers { wakers, places, free, waiting } = &readers;
            assert_eq!((wakers.capacity(), places.capacity()), (0, 0));
            assert_eq!((free.capacity(), waiting.capacity()), (0, 0));
        }
    }
}

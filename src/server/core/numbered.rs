//! A collection of values, one per topic, keyed by increasing numbers. Up to 16 values are kept in
//! a list, more in maps.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    ops::Bound,
};

use crate::protocol::Topic;

/// Up to this many values are kept in a plain list. Most connections have one subscription.
const FEW: usize = 16;

/// A value that belongs to a topic.
pub(super) trait OfTopic {
    fn topic(&self) -> &Topic;
}

/// Finds a value by its number or by its topic. Up to [`FEW`] values the time is linear in their
/// count; above that it is that of a map lookup.
pub(super) enum Numbered<T> {
    /// In the order of the numbers, without spare capacity.
    Few(Vec<(u64, T)>),
    Many(Box<Many<T>>),
}

pub(super) struct Many<T> {
    list: BTreeMap<u64, Box<T>>,
    by_topic: HashMap<Topic, u64>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<T: OfTopic> Numbered<T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(many) => many.list.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the value that belongs to `topic`.
    pub(super) fn number_of(&self, topic: &str) -> Option<u64> {
        match self {
            Self::Few(list) => list
                .iter()
                .find(|(_, one)| one.topic().as_str() == topic)
                .map(|&(number, _)| number),
            Self::Many(many) => many.by_topic.get(topic).copied(),
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        match self {
            Self::Few(list) => Some(&list[place(list, number)?].1),
            Self::Many(many) => many.list.get(&number).map(|one| &**one),
        }
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        match self {
            Self::Few(list) => {
                let place = place(list, number)?;
                Some(&mut list[place].1)
            }
            Self::Many(many) => many.list.get_mut(&number).map(|one| &mut **one),
        }
    }

    /// Adds a value. Its number must be above all others.
    pub(super) fn push(&mut self, number: u64, one: T) {
        match self {
            Self::Few(list) if list.len() < FEW => {
                list.reserve_exact(1);
                list.push((number, one));
            }
            Self::Few(list) => {
                let mut many = Many { list: BTreeMap::new(), by_topic: HashMap::new() };
                mem::take(list).into_iter().for_each(|(number, one)| many.push(number, one));
                many.push(number, one);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => many.push(number, one),
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let many = match self {
            Self::Few(list) => {
                let (_, one) = list.remove(place(list, number)?);
                list.shrink_to_fit();
                return Some(one);
            }
            Self::Many(many) => many,
        };
        let one = *many.list.remove(&number)?;
        many.by_topic.remove(one.topic());
        // The maps are kept down to half of `FEW`. Otherwise a value that comes and goes at the
        // limit would move all others each time.
        if many.list.len() <= FEW / 2 {
            let left = mem::take(&mut many.list);
            *self = Self::Few(left.into_iter().map(|(number, one)| (number, *one)).collect());
        }
        Some(one)
    }

    /// All values, in the order of their numbers.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.behind(0).map(|(_, one)| one)
    }

    /// The values whose numbers are above `number`, in the order of their numbers. Numbers begin at
    /// 1.
    pub(super) fn behind(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let (few, many) = match self {
            Self::Few(list) => {
                let begin = list.partition_point(|&(other, _)| other <= number);
                (Some(&list[begin..]), None)
            }
            Self::Many(many) => {
                (None, Some(many.list.range((Bound::Excluded(number), Bound::Unbounded))))
            }
        };
        let few = few.into_iter().flatten().map(|(number, one)| (*number, one));
        few.chain(many.into_iter().flatten().map(|(&number, one)| (number, &**one)))
    }

    /// All values, in the order of their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list.iter_mut()), None),
            Self::Many(many) => (None, Some(many.list.iter_mut())),
        };
        let few = few.into_iter().flatten().map(|(number, one)| (*number, one));
        few.chain(many.into_iter().flatten().map(|(&number, one)| (number, &mut **one)))
    }
}

impl<T: OfTopic> Many<T> {
    fn push(&mut self, number: u64, one: T) {
        self.by_topic.insert(one.topic().clone(), number);
        self.list.insert(number, Box::new(one));
    }
}

fn place<T>(list: &[(u64, T)], number: u64) -> Option<usize> {
    list.binary_search_by_key(&number, |&(number, _)| number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OfTopic for Topic {
        fn topic(&self) -> &Topic {
            self
        }
    }

    fn topic(number: u64) -> Topic {
        Topic::new(&format!("t{number}")).unwrap()
    }

    /// It behaves like a map, with few values and with many.
    #[test]
    fn numbered_values_match_a_plain_map() {
        let mut random = fastrand::Rng::with_seed(7);
        for most in [1, 8, 16, 17, 40] {
            let (mut numbered, mut map) = (Numbered::default(), BTreeMap::new());
            for number in 1..=2_000 {
                if map.len() < most && random.bool() {
                    numbered.push(number, topic(number));
                    map.insert(number, topic(number));
                }
                let gone = random.u64(number.saturating_sub(2 * most as u64)..=number);
                if random.u8(..) < 100 {
                    assert_eq!(numbered.remove(gone), map.remove(&gone));
                }
                assert_eq!((numbered.len(), numbered.is_empty()), (map.len(), map.is_empty()));
                assert_eq!(numbered.get(gone), map.get(&gone));
                assert_eq!(numbered.get_mut(gone), map.get_mut(&gone));
                let found = numbered.number_of(topic(gone).as_str());
                assert_eq!(found, map.get(&gone).map(|_| gone));
                assert!(numbered.values().eq(map.values()));
                assert!(numbered.iter_mut().eq(map.iter_mut().map(|(&number, one)| (number, one))));
                let behind = map.range(gone + 1..).map(|(&number, one)| (number, one));
                assert!(numbered.behind(gone).eq(behind));
            }
        }
    }

    /// Maps are converted back to a list when few values are left.
    #[test]
    fn maps_are_used_only_for_many_values() {
        let mut numbered = Numbered::default();
        for number in 1..=FEW as u64 {
            numbered.push(number, topic(number));
            let Numbered::Few(list) = &numbered else { panic!("maps for {number}") };
            assert_eq!(list.capacity(), list.len());
        }
        numbered.push(FEW as u64 + 1, topic(0));
        assert!(matches!(numbered, Numbered::Many(_)));
        (1..=FEW as u64 / 2 + 1).for_each(|number| drop(numbered.remove(number)));
        assert!(matches!(&numbered, Numbered::Few(list) if list.capacity() == FEW / 2));
    }
}

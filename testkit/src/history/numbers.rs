//! Sets of numbers, stored as ranges, because missed numbers come in ranges.

use std::fmt;

/// A set of numbers. Its ranges rise, and do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(Vec<(u64, u64)>);

impl FromIterator<(u64, u64)> for Numbers {
    /// The numbers of these ranges, both ends included.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl Numbers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut first, last) in &self.0 {
            for &(begin, end) in other.from(first).take_while(|(begin, _)| *begin <= last) {
                if first < begin {
                    left.push((first, begin - 1));
                }
                first = end.saturating_add(1);
            }
            left.push((first, last));
        }
        left.into_iter().collect()
    }

    /// The ranges that do not end before `first`.
    fn from(&self, first: u64) -> impl Iterator<Item = &(u64, u64)> {
        self.0[self.0.partition_point(|(_, end)| *end < first)..].iter()
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{first}-{last}")?;
        }
        Ok(())
    }
}

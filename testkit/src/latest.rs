//! What a topic that keeps the latest message of each key has to hold. It does not use the crate.

/// A log, as the list of all messages that it ever had.
#[derive(Debug, Default)]
pub struct LatestModel {
    numbers: Vec<State>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Held { key: Option<String>, payload: String },
    Replaced,
    Gone,
}

impl LatestModel {
    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.numbers.len() as u64 + 1
    }

    /// Adds a message, which replaces the one that has the same key. Returns its number.
    pub fn publish(&mut self, key: Option<&str>, payload: &str) -> u64 {
        for state in &mut self.numbers {
            if matches!(state, State::Held { key: Some(other), .. } if Some(&**other) == key) {
                *state = State::Replaced;
            }
        }
        let (key, payload) = (key.map(Into::into), payload.to_owned());
        self.numbers.push(State::Held { key, payload });
        self.next() - 1
    }

    /// Drops the oldest messages over these limits. The newest one stays.
    pub fn retain(&mut self, messages: usize, bytes: usize) {
        while self.held().count() > 1
            && (self.held().count() > messages || self.held().sum::<usize>() > bytes)
        {
            let oldest = self.numbers.iter().position(|it| matches!(it, State::Held { .. }));
            self.drop_below(oldest.map_or(0, |oldest| oldest + 1));
        }
    }

    /// The bytes of each payload and key that is held.
    fn held(&self) -> impl Iterator<Item = usize> {
        self.numbers.iter().filter_map(|state| match state {
            State::Held { key, payload } => {
                Some(payload.len() + key.as_ref().map_or(0, String::len))
            }
            State::Replaced | State::Gone => None,
        })
    }

    /// All that it had is lost.
    pub fn lose(&mut self) {
        self.drop_below(self.numbers.len());
    }

    fn drop_below(&mut self, count: usize) {
        self.numbers.iter_mut().take(count).for_each(|state| *state = State::Gone);
    }

    /// No message so far is replaced any more.
    pub fn forget_keys(&mut self) {
        for state in &mut self.numbers {
            if let State::Held { key, .. } = state {
                *key = None;
            }
        }
    }

    /// Whether the message of this number was replaced.
    pub fn has_replaced(&self, number: u64) -> bool {
        self.numbers.get(number as usize - 1) == Some(&State::Replaced)
    }

    /// What a reader gets for each number from 1 on: the payload, or the reason of a gap in
    /// brackets.
    pub fn read(&self) -> Vec<String> {
        let text = |state: &State| match state {
            State::Held { payload, .. } => payload.clone(),
            State::Replaced => "[replaced]".to_owned(),
            State::Gone => "[retention]".to_owned(),
        };
        self.numbers.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_was_replaced_from_what_left() {
        let mut model = LatestModel::default();
        for (key, payload) in [(None, "1"), (Some("a"), "2"), (Some("a"), "3"), (Some("b"), "4")] {
            model.publish(key, payload);
        }
        assert_eq!(model.read(), ["1", "[replaced]", "3", "4"]);
        model.retain(3, 4);
        assert_eq!(model.read(), ["[retention]", "[replaced]", "3", "4"]);
        model.retain(9, 1);
        assert_eq!(model.read(), ["[retention]", "[retention]", "[retention]", "4"]);
        model.forget_keys();
        assert_eq!((model.publish(Some("b"), "5"), model.next()), (5, 6));
        assert!(!model.has_replaced(4));
        model.lose();
        assert!(model.read().iter().all(|text| text == "[retention]"));
    }
}

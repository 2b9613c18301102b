//! What the logs of a store may hold, after every call and over all lives. Pure.
//!
//! **Invariant:** a number that is `confirmed` (its append has ended, or it was read) keeps its
//! payload for ever. A number above may be lost with a life, and be given again.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::{
    protocol::{Code, Epoch, Position, Topic, Window},
    topic::{
        Published,
        suite::{
            check::{Checked, require, same},
            probe::Item,
        },
    },
};

/// The messages of one log.
#[derive(Debug)]
pub(super) struct LogModel {
    /// Unknown until the first message is acknowledged or read.
    epoch: Option<Epoch>,
    /// The payloads, by number, in the order of the calls.
    assigned: BTreeMap<u64, Bytes>,
    /// The greatest number that was acknowledged or read.
    pub(super) confirmed: u64,
    /// A sweep may have dropped the numbers up to this one.
    dropped: u64,
    /// Where the log was closed.
    end: Option<u64>,
}

/// One topic over all lives.
#[derive(Debug, Default)]
pub(super) struct TopicModel {
    /// The current log, if it may have a message.
    pub(super) log: Option<LogModel>,
    /// The logs before, by epoch. None of them may return.
    over: HashMap<Epoch, LogModel>,
    /// A sweep may have dropped the log, so that it may return under a new epoch.
    pub(super) may_be_new: bool,
    /// A close was called and may not have happened.
    pub(super) may_be_closed: bool,
}

/// All topics.
#[derive(Debug)]
pub(super) struct Model {
    topics: HashMap<Topic, TopicModel>,
    /// The newest messages that a log retains.
    retained: Option<u64>,
    /// A kill may lose a log, if it returns under a new epoch.
    may_lose: bool,
}

impl LogModel {
    fn new(epoch: Option<Epoch>) -> Self {
        Self { epoch, assigned: BTreeMap::new(), confirmed: 0, dropped: 0, end: None }
    }

    /// The number of the next call.
    pub(super) fn next(&self) -> u64 {
        self.assigned.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// The position of a number, once the epoch is known.
    pub(super) fn position(&self, next: u64) -> Option<Position> {
        self.epoch.map(|epoch| Position { epoch, next })
    }

    /// A message was acknowledged under this number.
    fn confirm(&mut self, published: Published, number: u64) -> Checked {
        let epoch = *self.epoch.get_or_insert(published.epoch);
        let found = (published.epoch, published.sequence);
        same("(epoch, number) of an append", found, (epoch, number))?;
        self.confirmed = self.confirmed.max(number);
        Ok(())
    }

    /// The greatest number that retention may have dropped.
    fn may_be_gone(&self, retained: Option<u64>) -> u64 {
        let beyond = retained.map_or(0, |retained| self.next().saturating_sub(retained + 1));
        beyond.max(self.dropped)
    }

    fn read(&mut self, at: Position, item: &Item, retained: Option<u64>) -> Checked {
        match item {
            Item::Message(number, payload) => {
                let expected = self.assigned.get(number).map(|it| &it[..]);
                let named = format!("the payload of number {number} of epoch {}", at.epoch);
                same(&named, Some(text(payload)), expected.map(text))?;
                self.confirmed = self.confirmed.max(*number);
                Ok(())
            }
            Item::Gone(number, reason) => {
                same("the reason of a gap", reason, &Code::RETENTION)?;
                require(*number <= self.may_be_gone(retained), || {
                    format!("number {number} is gone, and the next one is {}", self.next())
                })
            }
            Item::Closed => same("the end of the closed log", Some(at.next), self.end),
            Item::Reset(to) => require(false, || format!("a reader of this log was reset to {to}")),
        }
    }

    /// The window after a new life began.
    fn returned(&mut self, window: Window, retained: Option<u64>) -> Checked {
        let Window { epoch, next, .. } = window;
        require(self.confirmed < next && next <= self.next(), || {
            let (confirmed, called) = (self.confirmed, self.next() - 1);
            format!(
                "after the restart the next number of {epoch} is {next}, while {confirmed} was \
                 acknowledged or read, and {called} was the last call"
            )
        })?;
        self.dropped = self.may_be_gone(retained);
        self.assigned.retain(|&number, _| number < next);
        self.epoch = Some(epoch);
        self.confirmed = next - 1;
        Ok(())
    }
}

fn text(payload: &[u8]) -> String {
    payload.escape_ascii().to_string()
}

impl Model {
    pub(super) fn new(retained: Option<u64>, may_lose: bool) -> Self {
        Self { topics: HashMap::new(), retained, may_lose }
    }

    pub(super) fn topic(&mut self, name: &Topic) -> &mut TopicModel {
        self.topics.entry(name.clone()).or_default()
    }

    /// An append was called. Returns the number that it has to get.
    pub(super) fn called(&mut self, name: &Topic, payload: Bytes) -> u64 {
        let log = self.topic(name).log.get_or_insert_with(|| LogModel::new(None));
        let number = log.next();
        log.assigned.insert(number, payload);
        number
    }

    /// The append that was called with this number has ended.
    pub(super) fn acknowledged(&mut self, name: &Topic, number: u64, by: Published) -> Checked {
        let topic = self.topic(name);
        let known = topic.log.as_ref().and_then(|log| log.epoch);
        let is_new = topic.may_be_new && known.is_some_and(|known| known != by.epoch);
        if is_new || known.is_none() {
            topic.never_before(by.epoch)?;
        }
        topic.may_be_new = false;
        if !is_new {
            let log = topic.log.as_mut().expect("a log whose append was called");
            return log.confirm(by, number);
        }
        let log = topic.log.as_mut().and_then(|log| log.assigned.remove(&number));
        let payload = log.expect("the payload of the call");
        topic.replace(LogModel::new(Some(by.epoch)));
        let number = self.called(name, payload);
        let log = self.topic(name).log.as_mut().expect("the new log");
        log.confirm(by, number)
    }

    /// A reader that stood at `at` has got an item.
    pub(super) fn read(&mut self, name: &Topic, at: Position, item: &Item) -> Checked {
        let (retained, epoch) = (self.retained, at.epoch);
        let topic = self.topic(name);
        if let (Item::Reset(to), true) = (item, topic.may_be_new) {
            topic.never_before(to.epoch)?;
            same("where a reset goes on", to.next, 1)?;
            topic.replace(LogModel::new(Some(to.epoch)));
            return Ok(());
        }
        let log = topic.over.get_mut(&epoch).or(topic.log.as_mut());
        log.expect("a log that is read").read(at, item, retained)
    }

    /// The last number that every reader of this log gets, and whether its end follows.
    pub(super) fn rest(&mut self, name: &Topic, epoch: Epoch) -> (u64, bool) {
        let topic = self.topic(name);
        match topic.over.get(&epoch).and_then(|log| log.end) {
            Some(end) => (end - 1, true),
            None => (topic.log.as_ref().map_or(0, |log| log.confirmed), false),
        }
    }

    /// The log was closed, and all its appends have ended before.
    pub(super) fn closed(&mut self, name: &Topic, end: Option<Position>) -> Checked {
        let topic = self.topic(name);
        let expected = topic.log.as_ref().and_then(|log| log.position(log.next()));
        same("where the log was closed", end, expected)?;
        topic.close();
        Ok(())
    }

    /// The store was swept. Logs without readers may be gone.
    pub(super) fn swept(&mut self, is_used: impl Fn(&Topic, Option<Epoch>) -> bool) {
        for (name, topic) in &mut self.topics {
            if let Some(log) = topic.log.as_mut().filter(|log| !is_used(name, log.epoch)) {
                log.dropped = log.next() - 1;
                topic.may_be_new = true;
            }
        }
    }

    /// A new life has begun, in which the topic has this window.
    pub(super) fn returned(&mut self, name: &Topic, window: Window, is_killed: bool) -> Checked {
        let (retained, may_lose) = (self.retained, self.may_lose && is_killed);
        let topic = self.topic(name);
        let known = topic.log.as_ref().and_then(|log| log.epoch);
        let has_changed = known.is_some_and(|known| known != window.epoch);
        if known != Some(window.epoch) {
            topic.never_before(window.epoch)?;
        }
        let may_change = topic.may_be_new || topic.may_be_closed || may_lose;
        if has_changed || known.is_none() && may_change && window.next == 1 {
            require(may_change, || {
                format!("the epoch {known:?} has become {} after the restart", window.epoch)
            })?;
            same("the next number of a new epoch", window.next, 1)?;
            topic.close();
        } else if let Some(log) = &mut topic.log {
            log.returned(window, retained)?;
            if window.next == 1 {
                topic.log = None;
            }
        } else {
            same("the next number of a topic without messages", window.next, 1)?;
        }
        topic.may_be_closed = false;
        Ok(())
    }

    pub(super) fn names(&self) -> Vec<Topic> {
        let mut names: Vec<_> = self.topics.keys().cloned().collect();
        names.sort_unstable();
        names
    }
}

impl TopicModel {
    /// An epoch that begins was never that of the topic before.
    fn never_before(&self, epoch: Epoch) -> Checked {
        let is_over = self.over.contains_key(&epoch);
        require(!is_over, || format!("the epoch {epoch} returned after its log was over"))
    }

    fn close(&mut self) {
        if let Some(mut log) = self.log.take() {
            log.end = Some(log.next());
            self.over.extend(log.epoch.map(|epoch| (epoch, log)));
        }
        self.may_be_new = false;
    }

    fn replace(&mut self, log: LogModel) {
        self.close();
        self.log = Some(log);
    }
}

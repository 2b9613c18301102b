//! What a wrong client remembers of what went by, on all of its lanes.

use std::collections::{HashMap, HashSet};

use crate::wire::position;

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A command, to the testee.
    Command,
    /// An event, from the testee.
    Event,
    ToServer,
    ToClient,
    /// The client has connected.
    Open,
    /// The beginning of a line to the client, whose end has not come for a while.
    Part,
    /// The server has closed the connection.
    Close,
    /// A connection to the server that the client has not asked for.
    Dial,
}

/// Lines of text, of which each char is a byte.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Tags of subscriptions, by topic.
    pub(super) tags: HashMap<String, String>,
    /// Requests without a terminal line, by id.
    pub(super) pending: HashMap<u64, String>,
    pub(super) cancelled: HashSet<u64>,
    /// The last request of the application.
    pub(super) last_request: Option<String>,
    pub(super) last_id: u64,
    /// The epoch of each topic, and the next number of each epoch.
    epochs: HashMap<String, String>,
    next: HashMap<(String, String), u64>,
    /// Whether the last notification is one that the client has no use for: it was there before, or
    /// its topic is being left.
    pub(super) is_useless: bool,
    /// Items of streamed replies, by id.
    pub(super) items: HashMap<u64, u64>,
    /// Whether a line of the server is the first of what was read at once.
    pub(super) is_first_of_read: bool,
    /// Lines of the server, and of the client, on the connection that was opened last.
    pub(super) lines_to_client: u64,
    pub(super) lines_to_server: u64,
    pub(super) bytes_to_server: usize,
    pub(super) connections: u64,
    /// Whether what a mistake waits for has come.
    pub(super) flag: bool,
    /// What a mistake holds back.
    pub(super) held: Option<String>,
}

impl Memory {
    pub(super) fn note(&mut self, lane: Lane, line: &str) {
        match lane {
            Lane::Open => {
                self.connections += 1;
                (self.lines_to_client, self.lines_to_server) = (0, 0);
            }
            Lane::Command => self.note_command(line),
            Lane::ToServer => self.note_request(line),
            Lane::ToClient => self.note_line(line),
            _ => {}
        }
    }

    fn note_command(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        if let [word, tag, topic] = words[..]
            && word.starts_with("subscribe")
        {
            self.tags.insert(topic.to_owned(), tag.to_owned());
        }
    }

    fn note_request(&mut self, line: &str) {
        self.lines_to_server += 1;
        self.bytes_to_server += line.len();
        let Some((mark, after)) = line.split_once(' ') else { return };
        if let Ok(id) = mark.parse() {
            self.last_id = id;
            self.pending.insert(id, after.to_owned());
            if !after.starts_with('/') {
                self.last_request = Some(line.to_owned());
            }
        }
        if let Some(id) = after.strip_prefix("/cancel ").and_then(|id| id.parse().ok()) {
            self.cancelled.insert(id);
        }
    }

    fn note_line(&mut self, line: &str) {
        self.lines_to_client += 1;
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["*", "/reset", topic, at, ..] => {
                if let Some((epoch, next)) = position(at) {
                    self.enter(topic, epoch, next);
                }
            }
            ["*", topic, seq, ..] => self.note_notification(topic, seq),
            _ => {}
        }
        let Some(id) = words[0].parse::<u64>().ok() else { return };
        if line.contains(" more") {
            *self.items.entry(id).or_default() += 1;
        } else if let Some(topic) = self.topic_of(id)
            && let (Some(epoch), Some(next)) = (attribute(line, "epoch"), attribute(line, "next"))
        {
            self.enter(&topic, &epoch, next.parse().unwrap_or(1));
        }
    }

    /// A subscription is in an epoch, at `next` or where it was left.
    fn enter(&mut self, topic: &str, epoch: &str, next: u64) {
        self.epochs.insert(topic.to_owned(), epoch.to_owned());
        let known = self.next.entry((topic.to_owned(), epoch.to_owned())).or_default();
        *known = next.max(*known);
    }

    fn note_notification(&mut self, topic: &str, seq: &str) {
        let (Some(epoch), Ok(seq)) = (self.epochs.get(topic), seq.parse::<u64>()) else { return };
        let next = self.next.entry((topic.to_owned(), epoch.clone())).or_default();
        let is_left =
            self.pending.values().any(|request| *request == format!("/unsubscribe {topic}"));
        self.is_useless = seq < *next || is_left;
        *next = (seq + 1).max(*next);
    }

    /// The topic of a `/subscribe` that waits for its reply.
    pub(super) fn topic_of(&self, id: u64) -> Option<String> {
        let request = self.pending.get(&id).filter(|request| request.starts_with("/subscribe"))?;
        request.rsplit(' ').next().map(str::to_owned)
    }

    /// Forgets a request that has had its terminal line.
    pub(super) fn settle(&mut self, line: &str) {
        let (mark, after) = line.split_once(' ').unwrap_or((line, ""));
        if !after.starts_with("more")
            && let Ok(id) = mark.parse::<u64>()
        {
            self.pending.remove(&id);
        }
    }
}

/// The value of an attribute of a line's head.
pub(super) fn attribute(line: &str, key: &str) -> Option<String> {
    let head = line.split(' ').nth(1)?;
    let mut found = head.split(';').filter_map(|one| one.split_once('='));
    found.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
}

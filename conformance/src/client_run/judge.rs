//! What the server's end of a connection knows, and the rules that every line of a client has to
//! keep, whatever the case is about.

use std::collections::HashMap;

use crate::wire::{self, Line, number, position};

/// What both ends have said on a connection so far.
#[derive(Debug)]
pub(crate) struct Judge {
    last_id: u64,
    /// Whether the client has sent anything but what is in `OPENING`.
    has_asked: bool,
    /// Set by the server's hello; before that nothing may be sent.
    max_line: Option<usize>,
    lease: String,
    auth: Auth,
    /// Requests without a terminal line, by id: the method, and the rest.
    asked: HashMap<u64, (String, String)>,
    /// The subscriptions, in the order of subscribing.
    topics: Vec<Standing>,
    /// Items that were given to a request by `/more`.
    credit: HashMap<String, u64>,
}

/// What a client may send of its own accord before the first request of the application.
const OPENING: [&str; 3] = ["/hello", "/auth", "/renew"];

#[derive(Debug, PartialEq, Eq)]
enum Auth {
    NotNeeded,
    Needed,
    Accepted,
}

/// Where a subscription stands: all below `next` was delivered or named.
#[derive(Debug)]
struct Standing {
    topic: String,
    epoch: String,
    next: u64,
}

impl Judge {
    pub(crate) fn new() -> Self {
        Self {
            last_id: 0,
            has_asked: false,
            max_line: None,
            lease: "60".to_owned(),
            auth: Auth::NotNeeded,
            asked: HashMap::new(),
            topics: Vec::new(),
            credit: HashMap::new(),
        }
    }

    /// Items that were given to the request `id` beyond its window.
    pub(crate) fn credit(&self, id: &str) -> u64 {
        self.credit.get(id).copied().unwrap_or(0)
    }

    /// Whether it is a `/renew` before anything that the application asked for: any client may begin
    /// with one (C4.4), whatever the case is about.
    pub(crate) fn is_early_renewal(&self, line: &Line) -> bool {
        line.word == "/renew" && !self.has_asked
    }

    /// The reply to a `/renew` or `/unsubscribe` that a case says nothing about.
    pub(crate) fn reply(&self, line: &Line) -> String {
        let id = &line.mark;
        match &line.word[..] {
            "/hello" => format!("{id} ok;version=1"),
            "/renew" => format!("{id} ok;lease={}{}", self.lease, self.list()),
            "/unsubscribe" => match self.topic(&rest(line)) {
                Some(Standing { epoch, next, .. }) => format!("{id} ok;next={epoch}:{next}"),
                None => format!("{id} no not-subscribed"),
            },
            _ => format!("{id} ok"),
        }
    }

    fn list(&self) -> String {
        let entry = |one: &Standing| format!(" {}:{}:{}", one.topic, one.epoch, one.next);
        self.topics.iter().map(entry).collect()
    }

    fn topic(&self, name: &str) -> Option<&Standing> {
        self.topics.iter().find(|one| one.topic == name)
    }

    /// The server has written a line. What is malformed changes nothing.
    pub(crate) fn written(&mut self, line: &[u8]) {
        let Ok(line) = wire::parse(line) else { return };
        match number(&line.mark) {
            Some(id) => self.replied(id, &line),
            None => self.told(&line),
        }
    }

    fn replied(&mut self, id: u64, line: &Line) {
        if line.word == "more" {
            return;
        }
        let Some((method, topic)) = self.asked.remove(&id) else { return };
        if method == "/unsubscribe" {
            self.topics.retain(|one| one.topic != topic);
        }
        if line.word != "ok" {
            return;
        }
        match &method[..] {
            "/auth" => self.auth = Auth::Accepted,
            "/renew" => self.listed(&rest(line)),
            "/subscribe" => {
                let epoch = line.attribute("epoch").unwrap_or_default().to_owned();
                let next = line.attribute("next").and_then(number).unwrap_or(1);
                self.topics.retain(|one| one.topic != topic);
                self.topics.push(Standing { topic, epoch, next });
            }
            _ => {}
        }
    }

    /// The reply to a `/renew` names what was lost.
    fn listed(&mut self, list: &str) {
        for entry in list.split(' ') {
            let found = entry.split_once(':').and_then(|(name, at)| Some((name, position(at)?)));
            if let Some((name, (epoch, next))) = found {
                self.reached(name, epoch, next);
            }
        }
    }

    fn told(&mut self, line: &Line) {
        let rest = rest(line);
        let arguments: Vec<_> = rest.split(' ').collect();
        match (&line.word[..], &arguments[..]) {
            ("/hello", _) if self.max_line.is_none() => {
                let max_line = line.attribute("max-line").and_then(number).unwrap_or(65_535);
                self.max_line = Some(usize::try_from(max_line).unwrap_or(usize::MAX));
                self.lease = line.attribute("lease").unwrap_or("60").to_owned();
                if line.attribute("auth").is_some() {
                    self.auth = Auth::Needed;
                }
            }
            ("/gap", [topic, epoch, _, last, ..]) => {
                self.reached(topic, epoch, number(last).unwrap_or(0).saturating_add(1));
            }
            ("/reset", [topic, at, ..]) => {
                let one = self.topics.iter_mut().find(|one| one.topic == *topic);
                if let (Some(one), Some((epoch, next))) = (one, position(at)) {
                    (one.epoch, one.next) = (epoch.to_owned(), next);
                }
            }
            ("/end", [topic, ..]) => self.topics.retain(|one| one.topic != *topic),
            (topic, [seq, ..]) => {
                if let Some(one) = self.topics.iter_mut().find(|one| one.topic == topic) {
                    one.next = one.next.max(number(seq).unwrap_or(0).saturating_add(1));
                }
            }
            _ => {}
        }
    }

    fn reached(&mut self, topic: &str, epoch: &str, next: u64) {
        let is_it = |one: &&mut Standing| one.topic == topic && one.epoch == epoch;
        if let Some(one) = self.topics.iter_mut().find(is_it) {
            one.next = one.next.max(next);
        }
    }

    /// The client has written a line, without its LF.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Line, String> {
        let line =
            wire::parse(bytes).map_err(|why| format!("the line is malformed (B2.1): {why}"))?;
        if line.rest.as_ref().is_some_and(Vec::is_empty) {
            return Err("a SP stands before an empty rest (B2.4)".to_owned());
        }
        if ["ok", "more", "err", "no", "cut"].contains(&&line.word[..]) {
            return Err(format!("{:?} is no method (B2.1)", line.word));
        }
        match self.max_line {
            None if line.word != "/hello" => {
                return Err("the line came before the server's hello (C2.4)".to_owned());
            }
            Some(most) if bytes.len() >= most => {
                return Err(format!("the line is longer than the max-line of {most} (C2.2)"));
            }
            _ => {}
        }
        self.check_id(&line)?;
        if self.auth == Auth::Needed && !["/hello", "/auth", "/quit"].contains(&&line.word[..]) {
            return Err("the line came before the ok of /auth (C19.1)".to_owned());
        }
        self.check_arguments(&line)?;
        self.has_asked |= !OPENING.contains(&&line.word[..]);
        Ok(line)
    }

    fn check_id(&mut self, line: &Line) -> Result<(), String> {
        let Some(id) = number(&line.mark) else { return Ok(()) };
        if id <= self.last_id {
            return Err(format!("the id {id} is not above {} (C3.1)", self.last_id));
        }
        self.last_id = id;
        self.asked.insert(id, (line.word.clone(), rest(line)));
        Ok(())
    }

    fn check_arguments(&mut self, line: &Line) -> Result<(), String> {
        let rest = rest(line);
        match &line.word[..] {
            "/ack" => {
                let Some((epoch, next)) = rest.split_once(' ').and_then(|(_, at)| position(at))
                else {
                    return Err("/ack takes TOPIC EPOCH:NEXT".to_owned());
                };
                let topic = rest.split(' ').next().and_then(|topic| self.topic(topic));
                match topic.filter(|one| one.epoch == epoch) {
                    Some(one) if next > one.next => Err(format!(
                        "the ack {next} is above {}, the next number (C16.1)",
                        one.next
                    )),
                    _ => Ok(()),
                }
            }
            "/more" => {
                let (id, items) = rest.split_once(' ').ok_or("/more takes ID N")?;
                let items = number(items).ok_or("/more takes ID N")?;
                let credit = self.credit.entry(id.to_owned()).or_default();
                *credit = credit.saturating_add(items);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The rest as text.
fn rest(line: &Line) -> String {
    String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default()).into_owned()
}

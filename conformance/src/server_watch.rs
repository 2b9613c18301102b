//! What every line of a server is held against, whatever the case: the grammar, its length, one
//! terminal line for each id, credit, and the order contract of subscriptions.
//!
//! It reads what the client sends, too, since that says what may come. Each fault begins with its
//! rule.

use std::collections::HashMap;

use crate::{
    server_match::fault_of_hello,
    wire::{self, Line, number, position},
};

/// A connection as its client sees it.
#[derive(Default)]
pub struct Watch {
    /// The longest line that may come, LF included; 0 before the `/hello`.
    limit: usize,
    last_id: u64,
    open: HashMap<u64, Asked>,
    /// In the order of subscribing.
    subscriptions: Vec<Subscription>,
    /// What was sent of a line that has no LF yet.
    unsent: Vec<u8>,
}

/// A request without its terminal line.
#[derive(Default)]
struct Asked {
    method: String,
    topic: String,
    from: Option<String>,
    /// How many of the newest messages it asked for.
    last: Option<u64>,
    window: Option<u64>,
    max_line: Option<usize>,
    credit: u64,
}

struct Subscription {
    topic: String,
    epoch: String,
    next: u64,
    window: Option<u64>,
    /// Numbers that were delivered and not acknowledged.
    unacknowledged: Vec<u64>,
}

type Checked = Result<(), String>;

fn require(holds: bool, fault: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(fault()) }
}

impl Watch {
    /// Notes what the client sends.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.unsent.extend(bytes);
        while let Some(end) = self.unsent.iter().position(|&byte| byte == b'\n') {
            let mut line: Vec<u8> = self.unsent.drain(..=end).take(end).collect();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.sent_line(&line);
        }
    }

    fn sent_line(&mut self, line: &[u8]) {
        let id = line.split(|&byte| byte == b' ').next().and_then(|mark| str::from_utf8(mark).ok());
        let id = id.and_then(number).filter(|_| line.contains(&b' '));
        let parsed = wire::parse(line);
        match id {
            Some(id) if id > self.last_id => {
                self.last_id = id;
                self.open.insert(id, parsed.as_ref().map(Asked::new).unwrap_or_default());
            }
            _ => {}
        }
        let Ok(line) = parsed else { return };
        match &line.word[..] {
            "/ack" => self.acknowledged(&line),
            "/more" if line.is_channel() => self.credited(&line),
            _ => {}
        }
    }

    fn acknowledged(&mut self, line: &Line) {
        let rest = plain(line);
        let Some((topic, at)) = rest.split_once(' ') else { return };
        let Some((epoch, next)) = position(at) else { return };
        let is_its = |one: &&mut Subscription| one.topic == topic && one.epoch == epoch;
        if let Some(subscription) = self.subscriptions.iter_mut().find(is_its) {
            subscription.unacknowledged.retain(|&number| number >= next);
        }
    }

    fn credited(&mut self, line: &Line) {
        let rest = plain(line);
        let Some((id, items)) = rest.split_once(' ') else { return };
        let (Some(id), Some(items)) = (number(id), number(items)) else { return };
        if let Some(asked) = self.open.get_mut(&id) {
            asked.credit = asked.credit.saturating_add(items);
        }
    }

    /// Takes a line of the server's, without its LF.
    ///
    /// # Errors
    /// The rule that it breaks, and how.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Line, String> {
        let line = wire::parse(bytes).map_err(|why| format!("B2.1: {why}"))?;
        require(line.rest.as_deref() != Some(b""), || "B2.4: an empty rest has a SP".to_owned())?;
        if self.limit == 0 {
            fault_of_hello(&line, bytes.len() + 1).map_or(Ok(()), Err)?;
            let limit = line.attribute("max-line").and_then(|text| text.parse().ok());
            self.limit = limit.unwrap_or(65_535);
            return Ok(line);
        }
        require(bytes.len() < self.limit, || {
            format!("S2.4: a line of {} bytes, over the limit of {}", bytes.len() + 1, self.limit)
        })?;
        match line.is_channel() {
            false => self.reply(&line)?,
            true if line.word.starts_with('/') => self.notice(&line)?,
            true => self.notification(&line)?,
        }
        Ok(line)
    }

    fn reply(&mut self, line: &Line) -> Checked {
        let id = number(&line.mark).ok_or("B2.1: no id")?;
        if !self.open.contains_key(&id) {
            return Err(format!("S3.5: a line under {id}, which was answered or never asked"));
        }
        match &line.word[..] {
            "more" => return self.item(id),
            "ok" => {}
            "err" | "no" | "cut" => {
                let text = plain(line);
                let code = text.split(' ').next().unwrap_or_default();
                require(wire::is_code(code), || format!("B2.1: {code:?} is no code"))?;
            }
            word => return Err(format!("B2.1: {word:?} is no word of a reply")),
        }
        let asked = self.open.remove(&id).unwrap_or_default();
        if line.word == "ok" { self.accepted(&asked, line) } else { Ok(()) }
    }

    fn item(&mut self, id: u64) -> Checked {
        let Some(asked) = self.open.get_mut(&id) else { return Ok(()) };
        if asked.method.starts_with('/') {
            return Ok(());
        }
        require(asked.credit > 0, || format!("S15.1: an item under {id} without credit"))?;
        asked.credit -= 1;
        Ok(())
    }

    fn accepted(&mut self, asked: &Asked, line: &Line) -> Checked {
        match &asked.method[..] {
            "/hello" => {
                self.limit = self.limit.min(asked.max_line.unwrap_or(usize::MAX));
                Ok(())
            }
            "/subscribe" => self.subscribed(asked, line),
            "/unsubscribe" => self.unsubscribed(asked, line),
            "/renew" => self.renewed(line),
            _ => self.after(line),
        }
    }

    fn subscribed(&mut self, asked: &Asked, line: &Line) -> Checked {
        let text = |key| line.attribute(key).unwrap_or_default();
        let (epoch, lease) = (text("epoch").to_owned(), number(text("lease")));
        let next = number(text("next")).ok_or("section 13.2: `next` is no number")?;
        let head = if text("head") == "0" { Some(0) } else { number(text("head")) };
        let head = head.ok_or("section 13.2: `head` is no number")?;
        let is_whole = wire::is_epoch(&epoch) && lease.is_some();
        require(is_whole, || "section 13.2: the ok has no epoch or no lease".to_owned())?;
        // It does not know how many are retained.
        let begins_before = |last: u64| (head + 1).saturating_sub(last) <= next && next <= head + 1;
        let is_last = asked.last.is_some_and(begins_before);
        let (rule, expected) = match asked.from.as_deref().and_then(position) {
            None if is_last => ("S13.6", next),
            None => ("S4.4", head + 1),
            Some((from, seq)) if from == epoch => ("S4.4", seq),
            Some(_) => ("S4.4", 1),
        };
        require(next == expected, || format!("{rule}: next is {next} instead of {expected}"))?;
        let (topic, window) = (asked.topic.clone(), asked.window);
        self.subscriptions.push(Subscription {
            topic,
            epoch,
            next,
            window,
            unacknowledged: Vec::new(),
        });
        Ok(())
    }

    fn unsubscribed(&mut self, asked: &Asked, line: &Line) -> Checked {
        let at = self.subscriptions.iter().position(|one| one.topic == asked.topic);
        let at = at.ok_or("S4.10: there is no such subscription")?;
        let gone = self.subscriptions.remove(at);
        gone.stands_at(line.attribute("next").unwrap_or_default())
    }

    /// The list names the subscriptions, in their order, and no number that did not come.
    fn renewed(&self, line: &Line) -> Checked {
        let list = plain(line);
        if list.is_empty() && !self.subscriptions.is_empty() {
            // It may have stood in `more` lines.
            return Ok(());
        }
        let entries: Vec<_> = list.split(' ').filter(|entry| !entry.is_empty()).collect();
        let same = entries.len() == self.subscriptions.len();
        require(same, || format!("S4.13: {list:?} is not the list of the subscriptions"))?;
        for (entry, subscription) in entries.iter().zip(&self.subscriptions) {
            let (topic, at) = entry.split_once(':').unwrap_or((entry, ""));
            require(topic == subscription.topic, || format!("S4.13: {topic:?} at its place"))?;
            let (epoch, next) = position(at).ok_or_else(|| format!("S4.13: {entry:?}"))?;
            let is_told = epoch == subscription.epoch && next <= subscription.next;
            require(is_told, || format!("S4.13: {entry}, and not all below it came"))?;
        }
        Ok(())
    }

    fn after(&self, line: &Line) -> Checked {
        let Some(after) = line.attribute("after") else { return Ok(()) };
        let (topic, at) = after.split_once(':').ok_or("S17.2: `after` is TOPIC:POSITION")?;
        let (epoch, _) = position(at).ok_or("S17.2: `after` has no position")?;
        let is_its = |one: &Subscription| one.topic == topic && one.epoch == epoch;
        require(self.subscriptions.iter().any(is_its), || {
            format!("S17.1: after={after}, and there is no such subscription")
        })
    }

    fn of(&mut self, topic: &str, what: &str) -> Result<&mut Subscription, String> {
        let found = self.subscriptions.iter_mut().find(|one| one.topic == topic);
        found.ok_or_else(|| format!("S4.6 S4.7: {what} of {topic}, without a subscription"))
    }

    fn notification(&mut self, line: &Line) -> Checked {
        let text = plain(line);
        let seq = number(text.split(' ').next().unwrap_or_default()).ok_or("B2.1: no seq")?;
        let subscription = self.of(&line.word, "a notification")?;
        let expected = subscription.next;
        require(seq >= expected, || format!("S4.8: number {seq} comes behind {expected}"))?;
        require(seq == expected, || format!("S4.5: number {seq} instead of {expected}"))?;
        subscription.next += 1;
        subscription.unacknowledged.push(seq);
        let (count, window) = (subscription.unacknowledged.len() as u64, subscription.window);
        require(window.is_none_or(|window| count <= window), || {
            format!("S16.2: {count} unacknowledged notifications")
        })
    }

    fn notice(&mut self, line: &Line) -> Checked {
        let text = plain(line);
        let words: Vec<_> = text.split(' ').collect();
        match (&line.word[..], &words[..]) {
            ("/gap", [topic, epoch, first, last, reason, ..]) => {
                require(wire::is_code(reason), || {
                    "section 13.6: the reason is no code".to_owned()
                })?;
                self.gap(topic, epoch, number(first).zip(number(last)))
            }
            ("/reset", [topic, at, ..]) => self.reset(topic, position(at)),
            ("/end", [topic, reason, at, ..]) => {
                require(wire::is_code(reason), || {
                    "section 13.6: the reason is no code".to_owned()
                })?;
                self.of(topic, "an end")?.stands_at(at)?;
                self.subscriptions.retain(|one| one.topic != *topic);
                Ok(())
            }
            ("/gap" | "/reset" | "/end", _) => Err(format!("section 21: {text:?} is too short")),
            ("/error", [code, ..]) => {
                require(wire::is_code(code), || "section 21: the code is no code".to_owned())
            }
            ("/bye", [reason, ..]) => bye(line, reason),
            ("/hello", _) => Err("section 21: a second /hello".to_owned()),
            _ => Ok(()),
        }
    }

    fn gap(&mut self, topic: &str, epoch: &str, numbers: Option<(u64, u64)>) -> Checked {
        let (first, last) = numbers.ok_or("section 13.6: FIRST or LAST is no number")?;
        let subscription = self.of(topic, "a gap")?;
        subscription.stands_at(&format!("{epoch}:{first}"))?;
        require(first <= last, || "section 13.6: FIRST is above LAST".to_owned())?;
        subscription.next = last + 1;
        Ok(())
    }

    fn reset(&mut self, topic: &str, at: Option<(&str, u64)>) -> Checked {
        let (epoch, next) = at.ok_or("section 13.6: no position")?;
        let subscription = self.of(topic, "a reset")?;
        let is_new = epoch != subscription.epoch;
        subscription.epoch = epoch.to_owned();
        subscription.next = next;
        subscription.unacknowledged.clear();
        require(is_new, || "section 13.6: the epoch is the same".to_owned())
    }
}

/// The form of a `/bye`.
fn bye(line: &Line, reason: &str) -> Checked {
    let last = line.attribute("last");
    let is_number = last.is_none_or(|last| last == "0" || number(last).is_some());
    require(is_number, || "section 18.4: `last` is no number".to_owned())?;
    let retry = line.attribute("retry").map(number);
    require(retry != Some(None), || "section 18.3: `retry` is no number".to_owned())?;
    let is_reason = wire::is_code(reason) || (reason.is_empty() && last.is_none());
    require(is_reason, || "section 18.4: the reason is no code".to_owned())
}

impl Asked {
    fn new(line: &Line) -> Self {
        let number_of = |key| line.attribute(key).and_then(number);
        Self {
            method: line.word.clone(),
            topic: plain(line),
            from: line.attribute("from").map(str::to_owned),
            last: line.attribute("last").and_then(number),
            window: number_of("window"),
            max_line: number_of("max-line").map(|bytes| bytes as usize),
            credit: number_of("window").unwrap_or(32),
        }
    }
}

impl Subscription {
    fn stands_at(&self, at: &str) -> Checked {
        let expected = format!("{}:{}", self.epoch, self.next);
        require(at == expected, || {
            format!("B4.1 S4.5: {} stands at {expected}, not {at}", self.topic)
        })
    }
}

/// The rest of a line as text.
fn plain(line: &Line) -> String {
    String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default()).into_owned()
}

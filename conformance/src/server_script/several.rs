//! Directives that read several lines of the server's, and what all directives are about.

use super::{Stage, describe};
use crate::server_match::matches;

/// What a directive of a script that can fail is about; empty for any other line.
pub(super) fn meaning(directive: &str) -> &'static str {
    match directive {
        "!hello" => "the /hello has these attributes, and not those with a `-`",
        "!closed" => "the server has closed, and no line is left",
        "!silence" => "no line comes for so many milliseconds",
        "!within" => "a line comes within so many milliseconds",
        "!since" => "at least so many milliseconds have passed",
        "!open" => "a WebSocket, by a request with these headers changed",
        "!refused" => "a request with these headers changed gets this status",
        "!pong" => "a pong with this payload comes",
        "!ended" => "no line is left, and the code of the close frame is this",
        "!told" => "notifications and gaps come up to this number; if named, a gap for that reason",
        "!told-items" => "items of the stream come up to this number",
        "!until" => "lines are read up to this one",
        "!methods" => "the reply to /methods: names, sorted, `echo` among them",
        "!pages" => "the reply to /renew;list=more names so many subscriptions",
        "!waits" => "the names under which handlers wait are exactly these",
        "!notes" => "the texts that `note` was called with are exactly these",
        _ => "",
    }
}

impl Stage<'_> {
    /// Reads up to number LAST of a topic; that none is missing is seen by the watch.
    pub(super) async fn told(&mut self, arguments: &str) -> Result<(), String> {
        let mut words = arguments.split(' ');
        let (topic, last) = (words.next().unwrap_or_default(), words.next());
        let last: u64 = last.and_then(|last| last.parse().ok()).ok_or("usage: TOPIC LAST")?;
        let mut missing: Vec<_> = words.collect();
        loop {
            let line = self.line().await?;
            let text = String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default());
            let words: Vec<_> = text.split(' ').collect();
            let told = match (&line.word[..], &words[..]) {
                ("/gap", [named, _, _, last, reason, ..]) if *named == topic => {
                    missing.retain(|one| one != reason);
                    last
                }
                (word, [seq, ..]) if line.is_channel() && word == topic => seq,
                _ => return Err(format!("got {}", describe(&line))),
            };
            if told.parse::<u64>().is_ok_and(|told| told >= last) {
                break;
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("no /gap came with the reason {}", missing.join(" or "))),
        }
    }

    /// Reads items, each of which is its number, up to LAST; the first may be any.
    pub(super) async fn told_items(&mut self, arguments: &str) -> Result<(), String> {
        let usage = "usage: ID LAST";
        let (id, last) = arguments.split_once(' ').ok_or(usage)?;
        let last: u64 = last.parse().map_err(|_| usage)?;
        let mut expected = None;
        while expected.is_none_or(|expected| expected <= last) {
            let line = self.line().await?;
            let text = String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default());
            let item = text.parse::<u64>().ok();
            let is_next = item.is_some() && (expected.is_none() || expected == item);
            if line.mark != id || line.word != "more" || !is_next {
                return Err(format!("S15.3: got {}", describe(&line)));
            }
            expected = item.map(|item| item + 1);
        }
        Ok(())
    }

    pub(super) async fn read_up_to(&mut self, text: &str) -> Result<(), String> {
        loop {
            let got = self.line().await?;
            if matches(text, &got, &mut self.names)? {
                return Ok(());
            }
        }
    }

    /// The rests of the `more` lines under `id`, up to its `ok`.
    async fn more_lines(&mut self, id: &str) -> Result<Vec<String>, String> {
        let mut rests = Vec::new();
        loop {
            let line = self.line().await?;
            let rest = String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default());
            match &line.word[..] {
                "more" if line.mark == id => rests.push(rest.into_owned()),
                "ok" if line.mark == id && line.rest.is_none() => return Ok(rests),
                _ => return Err(format!("got {}", describe(&line))),
            }
        }
    }

    pub(super) async fn methods(&mut self, id: &str) -> Result<(), String> {
        let lines = self.more_lines(id).await?;
        let names: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        if !names.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()) {
            return Err(format!("S12.6: the list is not sorted: {names:?}"));
        }
        match names.contains(&"echo") {
            true => Ok(()),
            false => Err(format!("S12.6: the list lacks echo: {names:?}")),
        }
    }

    pub(super) async fn pages(&mut self, arguments: &str) -> Result<(), String> {
        let (id, count) = arguments.split_once(' ').ok_or("usage: ID N")?;
        let lines = self.more_lines(id).await?;
        let listed = lines.iter().flat_map(|line| line.split(' ')).count();
        match listed.to_string() == count {
            true => Ok(()),
            false => Err(format!("S13.4: {listed} subscriptions are listed: {lines:?}")),
        }
    }
}

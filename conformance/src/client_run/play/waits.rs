//! What a script waits for.

use std::time::{Duration, Instant};

use super::{CLOSING, FREE, Play, is_free, position, text};
use crate::{
    client_run::{
        expect::{is_expected, is_like},
        text::shown,
    },
    pattern::{bytes, matches},
};

impl Play {
    pub(super) async fn accept(&mut self, text: &str) -> Result<(), String> {
        let (name, door) = text.split_once(' ').unwrap_or((text, ""));
        let until = Instant::now() + self.patience;
        loop {
            if let Some((number, at)) = self.unclaimed.pop_front() {
                // A client that races addresses drops those that it does not take.
                if self.links[number].has_ended && self.links[number].lines.is_empty() {
                    continue;
                }
                if !door.is_empty() && door != at {
                    return Err(format!("the client connected to the {at} address, not to {door}"));
                }
                self.log.push(format!("connection {name}"));
                self.claimed.push((name.to_owned(), number));
                self.current = number;
                return Ok(());
            }
            if !self.happen(until).await? {
                return Err(format!("the client did not connect within {:?}", self.patience));
            }
        }
    }

    pub(super) async fn report(&mut self, mut expected: Vec<String>) -> Result<(), String> {
        if self.user.is_asked(&expected) {
            return Ok(());
        }
        let until = Instant::now() + self.patience;
        while !expected.is_empty() {
            let Some(event) = self.events.pop_front() else {
                if self.has_testee_ended || !self.happen(until).await? {
                    let why = match self.has_testee_ended {
                        true => "the testee ended".to_owned(),
                        false => format!("the testee reported nothing for {:?}", self.patience),
                    };
                    return Err(format!("{why}; expected `{}`", expected.join("`, `")));
                }
                continue;
            };
            match position(&expected, |text| matches(text, &event, &mut self.names))? {
                Some(at) => drop(expected.remove(at)),
                None if is_free(&event) => {}
                None => {
                    let expected = expected.join("`, `");
                    let event = shown(&event);
                    return Err(format!("the testee reported `{event}`; expected `{expected}`"));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn read(&mut self, mut expected: Vec<String>) -> Result<(), String> {
        let is_it = if self.user.is_testee() { is_expected } else { is_like };
        let until = Instant::now() + self.patience;
        while !expected.is_empty() {
            let wanted = || expected.join("`, `");
            let Some(line) = self.link()?.lines.pop_front() else {
                if self.link()?.has_ended {
                    return Err(format!("the client closed; expected `{}`", wanted()));
                }
                if !self.happen(until).await? {
                    let patience = self.patience;
                    return Err(format!(
                        "the client wrote nothing for {patience:?}; expected `{}`",
                        wanted()
                    ));
                }
                continue;
            };
            match position(&expected, |text| is_it(text, &line, &mut self.names))? {
                Some(at) => drop(expected.remove(at)),
                None if FREE.contains(&&line.word[..]) => {}
                None => {
                    return Err(format!(
                        "the client wrote `{}`; expected `{}`",
                        text(&line),
                        wanted()
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn closed(&mut self) -> Result<(), String> {
        let patience = self.patience.min(CLOSING);
        let until = Instant::now() + patience;
        loop {
            while let Some(line) = self.link()?.lines.pop_front() {
                if !FREE.contains(&&line.word[..]) {
                    return Err(format!("the client wrote `{}` instead of closing", text(&line)));
                }
            }
            if self.link()?.has_ended {
                self.link()?.close().await;
                return Ok(());
            }
            if !self.happen(until).await? {
                return Err(format!("the client did not close within {patience:?}"));
            }
        }
    }

    /// A pong with this payload comes.
    pub(super) async fn pong(&mut self, payload: &str) -> Result<(), String> {
        let expected = bytes(payload, &self.names)?;
        let until = Instant::now() + self.patience;
        loop {
            match self.link()?.pongs.pop_front() {
                Some(got) if got == expected => return Ok(()),
                Some(got) => return Err(format!("B24.4: the pong has {}", shown(&got))),
                None if self.happen(until).await? => {}
                None => return Err("B24.4: no pong comes".to_owned()),
            }
        }
    }

    /// The client closes a WebSocket, with this code. A page cannot name the codes of faults that its
    /// browser does not see, and closes without one.
    pub(super) async fn ended(&mut self, code: u16) -> Result<(), String> {
        self.closed().await?;
        match self.link()?.close_code {
            Some(got) if got == code => Ok(()),
            None if matches!(code, 1003 | 1007) => Ok(()),
            got => Err(format!("the code of the client's close frame is {got:?}")),
        }
    }

    pub(super) async fn credit(&mut self, id: &str, items: u64) -> Result<(), String> {
        let id = String::from_utf8_lossy(&bytes(id, &self.names)?).into_owned();
        let until = Instant::now() + self.patience;
        loop {
            let given = self.link()?.judge.credit(&id);
            if given >= items {
                return Ok(());
            }
            if !self.happen(until).await? {
                return Err(format!(
                    "the client gave {given} items of credit within {:?}; expected {items}",
                    self.patience
                ));
            }
        }
    }

    pub(super) async fn silence(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        while self.happen(until).await? {}
        if let Some(event) = self.events.iter().find(|event| !is_free(event)) {
            return Err(format!("the testee reported `{}`; expected silence", shown(event)));
        }
        for link in &mut self.links {
            link.lines.retain(|line| !FREE.contains(&&line.word[..]));
            if let Some(line) = link.lines.front() {
                return Err(format!("the client wrote `{}`; expected silence", text(line)));
            }
        }
        match self.unclaimed.is_empty() {
            true => Ok(()),
            false => Err("the client connected; expected silence".to_owned()),
        }
    }

    pub(super) async fn wait(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        while self.happen(until).await? {}
        Ok(())
    }

    pub(super) fn after(&self, least: Duration) -> Result<(), String> {
        let passed = self.mark.elapsed();
        match passed >= least {
            true => Ok(()),
            false => Err(format!("it came after {passed:?}; expected after {least:?} or more")),
        }
    }

    pub(super) fn within(&self, most: Duration) -> Result<(), String> {
        let passed = self.mark.elapsed();
        match passed <= most {
            true => Ok(()),
            false => Err(format!("it came after {passed:?}; expected within {most:?}")),
        }
    }
}

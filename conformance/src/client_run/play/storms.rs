//! Servers that answer at once with "again", for a while.

use std::time::{Duration, Instant};

use super::{Play, text};
use crate::{
    client_run::expect::{is_expected, is_like},
    pattern::bytes,
};

impl Play {
    pub(super) async fn storm(
        &mut self,
        time: Duration,
        most: usize,
        expected: &str,
        answer: &str,
    ) -> Result<(), String> {
        let is_it = if self.user.is_testee() { is_expected } else { is_like };
        let until = Instant::now() + time;
        let mut count = 0;
        while self.happen(until).await? {
            while let Some(line) = self.link()?.lines.pop_front() {
                let mut names = self.names.clone();
                if !is_it(expected, &line, &mut names)? {
                    return Err(format!(
                        "the client wrote `{}`; expected `{expected}`",
                        text(&line)
                    ));
                }
                count += 1;
                if count > most {
                    return Err(format!("the client asked more than {most} times in {time:?}"));
                }
                let answer = bytes(answer, &names)?;
                self.note("S:", &answer);
                let patience = self.patience;
                self.link()?.write(&[&answer[..], b"\n"].concat(), patience).await?;
            }
        }
        // The client may ask once more, after the storm and before the testee ends.
        let word = expected.split([' ', ';']).nth(1).unwrap_or_default();
        self.stormed.push(word.to_owned());
        match count {
            0 => Err(format!("the client did not ask within {time:?}")),
            _ => Ok(()),
        }
    }

    pub(super) async fn drop_all(&mut self, time: Duration, most: usize) -> Result<(), String> {
        let until = Instant::now() + time;
        let mut count = 0;
        loop {
            while let Some((number, _)) = self.unclaimed.pop_front() {
                count += 1;
                self.links[number].close().await;
            }
            if count > most {
                return Err(format!("the client connected more than {most} times in {time:?}"));
            }
            if !self.happen(until).await? {
                break;
            }
        }
        match count {
            0 => Err(format!("the client did not connect again within {time:?}")),
            _ => Ok(()),
        }
    }
}

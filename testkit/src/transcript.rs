//! Plays a transcript against the real server; docs/protocol/transcripts.md has the directives.

use std::{collections::HashMap, time::Duration};

use bellwire::{
    ServerConfig, ServerHandle,
    protocol::Code,
    server::{Action, Principal, TokenAuthenticator},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::yield_now,
    time::{advance, timeout},
};

use crate::{
    document::{Transcript, placeholder_name, unescape},
    methods::{Waiting, router},
    servers::{PIPE, PipeServer},
};

/// Virtual time that may pass before a line is there: none is due, but what a deadline brings may
/// be late by a tick of the server's timers, and by as long as they wait after a jump of the
/// clock.
const PATIENCE: Duration = Duration::from_millis(400);

/// A transcript that is being played.
struct Stage {
    server: PipeServer,
    handle: ServerHandle,
    waiting: Waiting,
    peer: DuplexStream,
    unread: Vec<u8>,
    bound: HashMap<String, String>,
}

/// Other tasks have their turns.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// What a server with an authenticator allows the peer.
fn is_open(_: &Principal, action: Action<'_>) -> bool {
    !matches!(action, Action::Subscribe("closed") | Action::Publish("closed"))
}

/// Plays one; the failure says in which line of its file.
pub async fn replay(transcript: &Transcript) -> Result<(), String> {
    let lines: Vec<&str> = transcript.lines.iter().map(String::as_str).collect();
    let says = |what: &str| {
        lines.iter().any(|line| line.starts_with("S: * /hello;") && line.contains(what))
    };
    let config = ServerConfig::new().allow_publish(true).in_flight(places(&lines));
    let config = if says(";keys=") { config } else { config.keys(0) };
    let mut stage = Stage::new(says(";auth=token"), config);
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let run = stage.play(&lines[at..]).await;
        at += run.map_err(|why| format!("line {}: {line}\n    {why}", at + 1))?;
    }
    Ok(())
}

/// The places in flight that its `/hello` announces.
fn places(lines: &[&str]) -> usize {
    let announced = lines.iter().find_map(|line| line.split_once(";in-flight="));
    let digits = announced.and_then(|(_, behind)| behind.split(';').next());
    digits.map_or(1_024, |digits| digits.parse().expect("a number"))
}

impl Stage {
    fn new(asks: bool, config: ServerConfig) -> Self {
        let (waiting, mut handle) = (Waiting::default(), None);
        let server = PipeServer::built(router(waiting.clone()), |server| {
            let server = server.config(config);
            handle = Some(server.handle());
            let tokens = TokenAuthenticator::new().token("secret", Principal::new("ada"));
            if asks { server.authenticator(tokens).authorizer(is_open) } else { server }
        });
        let handle = handle.expect("built");
        let peer = server.connect_raw(PIPE).io;
        Self { server, handle, waiting, peer, unread: Vec::new(), bound: HashMap::new() }
    }

    /// Plays the first of `lines`, and those that belong to it; how many.
    async fn play(&mut self, lines: &[&str]) -> Result<usize, String> {
        let line = lines[0];
        match line.split_at_checked(3) {
            Some(("C: ", _)) => return self.write_run(lines).await,
            Some(("S~ ", _)) => return self.expect_run(lines).await,
            Some(("C- ", text)) => {
                let bytes = self.text(text);
                self.write(&bytes).await?;
            }
            Some(("S: ", text)) => {
                let line = self.line().await?;
                self.matches(text, &line)?;
            }
            _ if line.starts_with('#') => {}
            _ => self.direct(line).await?,
        }
        Ok(1)
    }

    async fn direct(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        match words[..] {
            ["!publish", topic, payload] => {
                let payload = self.text(payload);
                let published = self.server.publisher.publish(topic, payload).await;
                published.map(drop).map_err(|error| error.to_string())
            }
            ["!finish", id] => self.waiting.finish(id.parse().unwrap()).await,
            ["!advance", seconds] => {
                // What was written is there before the time passes, and what it brings, after.
                settle().await;
                advance(Duration::from_secs(seconds.parse().unwrap())).await;
                settle().await;
                Ok(())
            }
            ["!revoke", topic] => {
                self.handle.sessions().iter().for_each(|session| session.revoke(topic));
                Ok(())
            }
            ["!close", reason] => {
                let reason = Code::new(reason).expect("a code");
                self.handle.sessions().iter().for_each(|session| session.close(reason.clone()));
                Ok(())
            }
            ["!eof"] => self.peer.shutdown().await.map_err(|error| error.to_string()),
            ["!shutdown"] => {
                self.server.stop();
                Ok(())
            }
            ["!closed"] => match self.next_line().await? {
                None => Ok(()),
                Some(line) => Err(format!("got {}", line.escape_ascii())),
            },
            _ => Err("no such directive".to_owned()),
        }
    }

    /// A `C:` and the `C+` behind it, in one write.
    async fn write_run(&mut self, lines: &[&str]) -> Result<usize, String> {
        let joined = lines[1..].iter().take_while(|line| line.starts_with("C+ ")).count();
        let mut bytes = Vec::new();
        for line in &lines[..=joined] {
            bytes.extend(self.text(&line[3..]));
            bytes.push(b'\n');
        }
        self.write(&bytes).await?;
        Ok(joined + 1)
    }

    /// A run of `S~`, in any order.
    async fn expect_run(&mut self, lines: &[&str]) -> Result<usize, String> {
        let texts = lines.iter().map_while(|line| line.strip_prefix("S~ "));
        let mut left: Vec<_> = texts.collect();
        let count = left.len();
        while !left.is_empty() {
            let line = self.line().await?;
            let at = left.iter().position(|text| self.matches(text, &line).is_ok());
            let at = at.ok_or_else(|| format!("got {}", line.escape_ascii()))?;
            left.remove(at);
        }
        Ok(count)
    }

    fn text(&self, text: &str) -> Vec<u8> {
        unescape(text, |name| self.bound.get(name).cloned())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.peer.write_all(bytes).await.map_err(|error| error.to_string())
    }

    async fn line(&mut self) -> Result<Vec<u8>, String> {
        self.next_line().await?.ok_or_else(|| "the server has closed".to_owned())
    }

    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(lf) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line = self.unread.drain(..=lf).take(lf).collect();
                return Ok(Some(line));
            }
            let read = timeout(PATIENCE, self.peer.read_buf(&mut self.unread)).await;
            match read.map_err(|_| "the server writes nothing")? {
                Ok(0) if self.unread.is_empty() => return Ok(None),
                Ok(0) => return Err("the last line has no LF".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Whether `line` is what `text` says; binds the names that are new in it.
    fn matches(&mut self, text: &str, line: &[u8]) -> Result<(), String> {
        let got = || format!("got {}", line.escape_ascii());
        let (mut text, mut left, mut bound) = (text, line, self.bound.clone());
        while !text.is_empty() {
            let one = match placeholder_name(text) {
                Some((name, after)) if !bound.contains_key(name) => {
                    let is_end = |byte: &u8| b" ;:".contains(byte);
                    let end = left.iter().position(is_end).unwrap_or(left.len());
                    let value = String::from_utf8_lossy(&left[..end]).into_owned();
                    if value.is_empty() {
                        return Err(got());
                    }
                    bound.insert(name.to_owned(), value);
                    left = &left[end..];
                    text = after;
                    continue;
                }
                Some((_, after)) => text.len() - after.len(),
                None if text.starts_with("\\x") => 4,
                None => text.chars().next().map_or(1, char::len_utf8),
            };
            let expected = unescape(&text[..one], |name| bound.get(name).cloned());
            left = left.strip_prefix(&expected[..]).ok_or_else(got)?;
            text = &text[one..];
        }
        if !left.is_empty() {
            return Err(got());
        }
        self.bound = bound;
        Ok(())
    }
}

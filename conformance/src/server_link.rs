//! The runner's control connection to the server under test, by raw lines.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    address::Address,
    transport::Transport,
    wire::{self, Line},
};

/// A connection to the server that was named on the command line.
pub struct Link {
    io: Transport,
    unread: Vec<u8>,
    last_id: u64,
    patience: Duration,
}

impl Link {
    /// Connects, and reads the `/hello`.
    ///
    /// # Errors
    /// What went wrong instead.
    pub async fn connect(address: &Address, patience: Duration) -> Result<Self, String> {
        let io = Transport::connect(address, patience).await?;
        let mut link = Self { io, unread: Vec::new(), last_id: 0, patience };
        let hello = link.line().await?;
        match hello.is_channel() && hello.word == "/hello" {
            true => Ok(link),
            false => Err("the server's first line is no /hello".to_owned()),
        }
    }

    /// Calls a method; the payload of its `ok`, or the code of anything else.
    ///
    /// # Errors
    /// The connection failed, or there was no answer in time.
    pub async fn call(
        &mut self,
        method: &str,
        payload: &[u8],
    ) -> Result<Result<Vec<u8>, String>, String> {
        self.last_id += 1;
        let mut line = format!("{} {method}", self.last_id).into_bytes();
        if !payload.is_empty() {
            line.push(b' ');
            line.extend(wire::stuff(payload));
        }
        line.push(b'\n');
        let written = self.io.write(&line).await;
        written.map_err(|error| format!("the control connection is lost: {error}"))?;
        loop {
            let line = self.line().await?;
            if line.mark == self.last_id.to_string() {
                let rest = wire::unstuff(&line.rest.unwrap_or_default())?;
                return Ok(match &line.word[..] {
                    "ok" => Ok(rest),
                    word => Err(format!("{word} {}", String::from_utf8_lossy(&rest))),
                });
            }
        }
    }

    /// The server's application methods; all that `wanted` names, if it does not list them.
    ///
    /// # Errors
    /// The connection failed, or there was no answer in time.
    pub async fn methods(&mut self, wanted: &[&str]) -> Result<Vec<String>, String> {
        self.last_id += 1;
        let (id, mut names) = (self.last_id.to_string(), Vec::new());
        let written = self.io.write(format!("{id} /methods\n").as_bytes()).await;
        written.map_err(|error| format!("the control connection is lost: {error}"))?;
        loop {
            let line = self.line().await?;
            match &line.word[..] {
                _ if line.mark != id => {}
                "more" => {
                    let item = String::from_utf8(line.rest.unwrap_or_default()).unwrap_or_default();
                    names.extend(item.split(' ').next().map(str::to_owned));
                }
                "ok" => return Ok(names),
                _ => return Ok(wanted.iter().map(|name| (*name).to_owned()).collect()),
            }
        }
    }

    async fn line(&mut self) -> Result<Line, String> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).take(end).collect();
                return wire::parse(&line);
            }
            let read = timeout(self.patience, self.io.read(&mut self.unread)).await;
            match read.map_err(|_| "the control method does not answer".to_owned())? {
                Ok(true) => {}
                Ok(false) => return Err("the server has closed the control connection".to_owned()),
                Err(error) => return Err(format!("the control connection is lost: {error}")),
            }
        }
    }
}

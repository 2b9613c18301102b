//! Directives about WebSockets: requests to open one, and frames.

use tokio::time::timeout;

use super::{Stage, describe};
use crate::{
    frame::Frame,
    pattern,
    server_peer::{Peer, shown},
    transport,
    websocket::{Response, WebSocket, request},
};

/// All of them.
pub(super) const WORDS: [&str; 7] =
    ["!open", "!refused", "!frame", "!bare", "!bytes", "!pong", "!ended"];

impl Stage<'_> {
    /// Plays one.
    pub(super) async fn frames(&mut self, word: &str, rest: &str) -> Result<(), String> {
        self.log.push(format!("{word} {rest}"));
        let (first, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "!open" => self.open(first, text).await,
            "!refused" => self.refused(first, text).await,
            "!frame" | "!bare" => {
                let payload = pattern::bytes(text, &self.names)?;
                let first = u8::from_str_radix(first, 16).map_err(|_| "usage: FIRST [PAYLOAD]")?;
                let frame = Frame { first, is_masked: word == "!frame", payload };
                self.peer()?.write_frame(&frame).await
            }
            "!bytes" => {
                let bytes = pattern::bytes(rest, &self.names)?;
                self.peer()?.write_raw(&bytes).await
            }
            "!pong" => {
                let expected = pattern::bytes(rest, &self.names)?;
                let got = self.peer()?.pong().await?;
                match got == expected {
                    true => Ok(()),
                    false => Err(format!("B24.4: the pong has {}", shown(&got))),
                }
            }
            _ => self.ended(rest).await,
        }
    }

    fn request(&self, changes: &str) -> Result<String, String> {
        let changes = changes.split(" | ").filter(|change| !change.is_empty());
        let filled = changes.map(|change| {
            let bytes = pattern::bytes(change, &self.names)?;
            String::from_utf8(bytes).map_err(|_| "a header has to be text".to_owned())
        });
        Ok(request(&self.address, &filled.collect::<Result<Vec<_>, _>>()?))
    }

    /// A new connection, by a request with changed headers.
    async fn open(&mut self, name: &str, changes: &str) -> Result<(), String> {
        let request = self.request(changes)?;
        let peer = Peer::open(&self.address, &request, self.patience).await?;
        self.log.push(format!("S: {}", describe(&peer.hello)));
        self.current = name.to_owned();
        self.peers.insert(name.to_owned(), peer);
        Ok(())
    }

    /// A request with changed headers, which gets this status.
    async fn refused(&mut self, status: &str, changes: &str) -> Result<(), String> {
        let request = self.request(changes)?;
        let io = transport::connect(&self.address, self.patience).await?;
        let mut socket = WebSocket::new(io);
        let asked = timeout(self.patience, socket.ask(&request)).await;
        let Response { status: got, .. } = asked.map_err(|_| "the server does not answer")??;
        match got.to_string() == status {
            true => Ok(()),
            false => Err(format!("got the status {got}")),
        }
    }

    /// The server has closed with this code, and no line is left.
    async fn ended(&mut self, code: &str) -> Result<(), String> {
        if let Some(line) = self.peer()?.next().await? {
            return Err(format!("got {}", describe(&line)));
        }
        match self.peer()?.close_code()? {
            Some(got) if got.to_string() == code => Ok(()),
            Some(got) => Err(format!("the code of the close frame is {got}")),
            None => Err("S24.4: there is no close frame with a code".to_owned()),
        }
    }
}

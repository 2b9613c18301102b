//! A connection of the runner's to the server under test: raw bytes, each wait bounded, and each
//! line held against the rules.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    server_watch::Watch,
    wire::{self, Line},
};

pub struct Peer {
    io: TcpStream,
    unread: Vec<u8>,
    /// How much of `unread` has no LF.
    searched: usize,
    watch: Watch,
    patience: Duration,
    /// The server's first line.
    pub hello: Line,
}

impl Peer {
    /// Connects, and reads the `/hello`.
    ///
    /// # Errors
    /// What happened instead.
    pub async fn connect(address: SocketAddr, patience: Duration) -> Result<Self, String> {
        let connected = timeout(patience, TcpStream::connect(address)).await;
        let io = connected
            .map_err(|_| "the server does not accept".to_owned())?
            .map_err(|error| format!("cannot connect: {error}"))?;
        io.set_nodelay(true).map_err(|error| error.to_string())?;
        let hello = wire::parse(b"* /hello").map_err(|why| why.to_owned())?;
        let (unread, watch) = (Vec::new(), Watch::default());
        let mut peer = Self { io, unread, searched: 0, watch, patience, hello };
        peer.hello = peer.line().await?;
        Ok(peer)
    }

    /// Writes bytes; lines are counted as sent by their LF.
    ///
    /// # Errors
    /// The server takes none.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.watch.sent(bytes);
        let written = timeout(self.patience, self.io.write_all(bytes)).await;
        written
            .map_err(|_| "the server takes no bytes".to_owned())?
            .map_err(|error| format!("cannot write: {error}"))
    }

    /// Ends this direction of the stream.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn half_close(&mut self) -> Result<(), String> {
        self.io.shutdown().await.map_err(|error| format!("cannot half-close: {error}"))
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// The system does not do that.
    pub fn abort(self) -> Result<(), String> {
        socket2::SockRef::from(&self.io)
            .set_linger(Some(Duration::ZERO))
            .map_err(|error| format!("cannot reset the connection: {error}"))
    }

    /// The next line.
    ///
    /// # Errors
    /// There is none, or it breaks a rule.
    pub async fn line(&mut self) -> Result<Line, String> {
        self.next().await?.ok_or_else(|| "the server has closed".to_owned())
    }

    /// The next line, which comes in `time`.
    ///
    /// # Errors
    /// There is none in that time, or it breaks a rule.
    pub async fn line_within(&mut self, time: Duration) -> Result<Line, String> {
        let patience = std::mem::replace(&mut self.patience, time);
        let line = self.line().await;
        self.patience = patience;
        line
    }

    /// The next line; `None` once the server has closed.
    ///
    /// # Errors
    /// Neither came in time, or the line breaks a rule.
    pub async fn next(&mut self) -> Result<Option<Line>, String> {
        let read = timeout(self.patience, self.raw()).await;
        let read = read.map_err(|_| format!("the server wrote nothing for {:?}", self.patience))?;
        let Some(bytes) = read.map_err(|error| format!("the connection is lost: {error}"))? else {
            return match self.unread.is_empty() {
                true => Ok(None),
                false => Err("B2.3: the last line has no LF".to_owned()),
            };
        };
        let line = self.watch.received(&bytes);
        line.map(Some).map_err(|why| format!("{why}\ngot {}", shown(&bytes)))
    }

    /// Reads for `time`, during which no line may come.
    ///
    /// # Errors
    /// One came, or the server has closed.
    pub async fn silence(&mut self, time: Duration) -> Result<(), String> {
        match timeout(time, self.raw()).await {
            Err(_) => Ok(()),
            Ok(Ok(Some(bytes))) => Err(format!("got {}", shown(&bytes))),
            Ok(_) => Err("the server has closed".to_owned()),
        }
    }

    /// Cancel safe: what was read stays in `unread`.
    async fn raw(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let fresh = &self.unread[self.searched..];
            if let Some(end) = fresh.iter().position(|&byte| byte == b'\n') {
                let end = self.searched + end;
                self.searched = 0;
                return Ok(Some(self.unread.drain(..=end).take(end).collect()));
            }
            self.searched = self.unread.len();
            match self.io.read_buf(&mut self.unread).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // It has closed while bytes of ours were on their way.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A line as a report shows it: escaped and cut.
pub fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 160;
    let cut = &bytes[..bytes.len().min(LONGEST)];
    let dots = if cut.len() < bytes.len() { "…" } else { "" };
    format!("{}{dots} ({} bytes)", cut.escape_ascii(), bytes.len())
}

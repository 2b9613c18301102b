//! A connection of the runner's to the server under test: raw bytes, each wait bounded, and each
//! line held against the rules.

use std::{io, time::Duration};

use tokio::time::timeout;

use crate::{
    address::Address,
    frame::Frame,
    server_watch::Watch,
    transport::{self, Transport},
    websocket::WebSocket,
    wire::{self, Line},
};

pub struct Peer {
    io: Transport,
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
    pub async fn connect(address: &Address, patience: Duration) -> Result<Self, String> {
        Self::greeted(Transport::connect(address, patience).await?, patience).await
    }

    /// Opens a WebSocket by this request, and reads the `/hello`.
    ///
    /// # Errors
    /// What happened instead.
    pub async fn open(
        address: &Address,
        request: &str,
        patience: Duration,
    ) -> Result<Self, String> {
        let io = transport::connect(address, patience).await?;
        let opened = timeout(patience, WebSocket::open(io, request)).await;
        let opened = opened.map_err(|_| "the request is not answered".to_owned())??;
        Self::greeted(Transport::WebSocket(Box::new(opened)), patience).await
    }

    async fn greeted(io: Transport, patience: Duration) -> Result<Self, String> {
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
        let written = timeout(self.patience, self.io.write(bytes)).await;
        written
            .map_err(|_| "the server takes no bytes".to_owned())?
            .map_err(|error| format!("cannot write: {error}"))
    }

    /// Writes a frame of a WebSocket. Its lines are counted as sent.
    ///
    /// # Errors
    /// The connection is lost, or no WebSocket.
    pub async fn write_frame(&mut self, frame: &Frame) -> Result<(), String> {
        if !frame.is_control() {
            self.watch.sent(&frame.payload);
        }
        let written = self.websocket()?.write_frame(frame).await;
        written.map_err(|error| format!("cannot write: {error}"))
    }

    /// Writes bytes below the frames of a WebSocket.
    ///
    /// # Errors
    /// The connection is lost, or no WebSocket.
    pub async fn write_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = self.websocket()?.write_raw(bytes).await;
        written.map_err(|error| format!("cannot write: {error}"))
    }

    /// The next pong. Lines that come before it are kept.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn pong(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(pong) = self.websocket()?.pong() {
                return Ok(pong);
            }
            match timeout(self.patience, self.io.read_or_pong(&mut self.unread)).await {
                Err(_) => return Err("B24.4: no pong comes".to_owned()),
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Err("the server has closed".to_owned()),
                Ok(Err(error)) => return Err(lost(&error)),
            }
        }
    }

    /// The code of the server's close frame.
    ///
    /// # Errors
    /// The connection is no WebSocket.
    pub fn close_code(&mut self) -> Result<Option<u16>, String> {
        Ok(self.websocket()?.close_code())
    }

    fn websocket(&mut self) -> Result<&mut WebSocket, String> {
        match &mut self.io {
            Transport::WebSocket(socket) => Ok(socket),
            Transport::Tcp(_) => Err("the case is wrong: it needs the option `ws`".to_owned()),
        }
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
        socket2::SockRef::from(self.io.socket())
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
        let Some(bytes) = read.map_err(|error| lost(&error))? else {
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
            match self.io.read(&mut self.unread).await {
                Ok(false) => return Ok(None),
                Ok(true) => {}
                // It has closed while bytes of ours were on their way.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Why nothing can be read. A rule that a frame breaks speaks for itself.
fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidData => error.to_string(),
        _ => format!("the connection is lost: {error}"),
    }
}

/// A line as a report shows it: escaped and cut.
pub fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 160;
    let cut = &bytes[..bytes.len().min(LONGEST)];
    let dots = if cut.len() < bytes.len() { "…" } else { "" };
    format!("{}{dots} ({} bytes)", cut.escape_ascii(), bytes.len())
}

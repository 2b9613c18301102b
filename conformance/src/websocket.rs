//! A client's end of a WebSocket, which holds each frame of the server against section 24.

use std::{collections::VecDeque, io};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    address::Address,
    frame::{BINARY, CLOSE, FIN, Frame, PING, PONG},
};

/// The key of every request, which is that of RFC 6455, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The most bytes of one message of the runner's.
const MESSAGE: usize = 64 * 1024;

/// The head of a response, by its status and its headers.
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
}

pub struct WebSocket {
    io: TcpStream,
    unread: Vec<u8>,
    /// Whether a message of ours was begun and not ended.
    is_writing: bool,
    has_closed: bool,
    /// The last byte of the message that the server is sending, if it has begun one.
    reading: Option<Option<u8>>,
    pongs: VecDeque<Vec<u8>>,
    /// The payload of the server's close frame.
    close: Option<Vec<u8>>,
}

/// A request with some of its headers changed: `Name: value`, or `-Name` without it.
pub fn request(address: &Address, changes: &[String]) -> String {
    let host = address.socket.to_string();
    let mut headers = vec![
        ("Host", &host[..]),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "bellwire.v1"),
    ];
    for change in changes {
        let (name, value) = match change.strip_prefix('-') {
            Some(name) => (name, None),
            None => change.split_once(": ").map_or((&change[..], None), |(a, b)| (a, Some(b))),
        };
        headers.retain(|(one, _)| !one.eq_ignore_ascii_case(name));
        headers.extend(value.map(|value| (name, value)));
    }
    let path = address.path.as_deref().unwrap_or("/");
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("GET {path} HTTP/1.1\r\n{}\r\n", lines.collect::<String>())
}

impl WebSocket {
    /// Opens a WebSocket over a connected socket.
    ///
    /// # Errors
    /// What the server has answered instead.
    pub async fn open(io: TcpStream, request: &str) -> Result<Self, String> {
        let mut socket = Self::new(io);
        let response = socket.ask(request).await?;
        response.check()?;
        Ok(socket)
    }

    /// A connection over which nothing was sent.
    pub fn new(io: TcpStream) -> Self {
        Self {
            io,
            unread: Vec::new(),
            is_writing: false,
            has_closed: false,
            reading: None,
            pongs: VecDeque::new(),
            close: None,
        }
    }

    /// Sends a request, and reads the head of the response.
    ///
    /// # Errors
    /// There was none.
    pub async fn ask(&mut self, request: &str) -> Result<Response, String> {
        let written = self.io.write_all(request.as_bytes()).await;
        written.map_err(|error| format!("cannot send the request: {error}"))?;
        loop {
            if let Some(end) = self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Response::parse(&head);
            }
            match self.io.read_buf(&mut self.unread).await {
                Ok(1..) => {}
                Ok(0) => return Err("the server has closed instead of a response".to_owned()),
                Err(error) => return Err(format!("there is no response: {error}")),
            }
        }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.io
    }

    /// The next pong, if one has come.
    pub fn pong(&mut self) -> Option<Vec<u8>> {
        self.pongs.pop_front()
    }

    /// The code of the server's close frame, if it has come and has one.
    pub fn close_code(&self) -> Option<u16> {
        self.close.as_ref()?.first_chunk().map(|code| u16::from_be_bytes(*code))
    }

    /// Writes bytes below the frames.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write_frame(&mut self, frame: &Frame) -> io::Result<()> {
        match frame.first {
            CLOSE => self.has_closed = true,
            _ if !frame.is_control() => self.is_writing = !frame.is_last(),
            _ => {}
        }
        self.io.write_all(&frame.encode()).await
    }

    /// Writes lines as messages. Bytes without a LF at the end leave their message open.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let most = bytes.len().min(MESSAGE);
            let line = bytes[..most].iter().rposition(|&byte| byte == b'\n');
            let (part, rest) = bytes.split_at(line.map_or(most, |at| at + 1));
            let opcode = if self.is_writing { 0 } else { BINARY };
            let last = if line.is_some() { FIN } else { 0 };
            self.write_frame(&Frame::masked(opcode | last, part)).await?;
            bytes = rest;
        }
        Ok(())
    }

    /// Reads payload of messages into `lines`. Returns whether there was any: else the server has
    /// closed. Cancel safe.
    ///
    /// # Errors
    /// The socket's, or the rule that the server breaks.
    pub async fn read(&mut self, lines: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let before = lines.len();
            let goes_on = self.read_or_pong(lines).await?;
            if lines.len() > before || !goes_on {
                return Ok(goes_on);
            }
        }
    }

    /// The same, but a pong is enough.
    ///
    /// # Errors
    /// The same.
    pub async fn read_or_pong(&mut self, lines: &mut Vec<u8>) -> io::Result<bool> {
        let (before, pongs) = (lines.len(), self.pongs.len());
        loop {
            while let Some(frame) = Frame::take(&mut self.unread) {
                self.take(frame, lines).await?;
            }
            if lines.len() > before || self.pongs.len() > pongs {
                return Ok(true);
            }
            if self.io.read_buf(&mut self.unread).await? == 0 {
                return match (&self.close, self.unread.is_empty()) {
                    (Some(_), true) => Ok(false),
                    (None, true) => Err(fault("S24.4: the server closed without a close frame")),
                    _ => Err(fault("B24.2: the last frame is incomplete")),
                };
            }
        }
    }

    async fn take(&mut self, frame: Frame, lines: &mut Vec<u8>) -> io::Result<()> {
        self.check(&frame).map_err(fault)?;
        let Frame { first, payload, .. } = frame;
        match first {
            PONG => self.pongs.push_back(payload),
            PING => self.write_frame(&Frame::masked(PONG, payload)).await?,
            CLOSE => {
                if !self.has_closed {
                    // The server may be gone already.
                    let _ = self.write_frame(&Frame::masked(CLOSE, payload.clone())).await;
                }
                self.close = Some(payload);
            }
            _ => {
                let before = self.reading.take().flatten();
                let last = payload.last().copied().or(before);
                let is_end = first & FIN != 0;
                if is_end && last != Some(b'\n') {
                    return Err(fault("B24.1: a message does not end with a whole line"));
                }
                self.reading = (!is_end).then_some(last);
                lines.extend(payload);
            }
        }
        Ok(())
    }

    /// Whether a server may send this frame now.
    fn check(&self, frame: &Frame) -> Result<(), &'static str> {
        let is_short = frame.payload.len() <= 125;
        match frame.opcode() {
            _ if self.close.is_some() => Err("B24.2: there is a frame behind the close frame"),
            _ if frame.is_masked => Err("B24.2: the server's frame is masked"),
            _ if frame.first & 0x70 != 0 => Err("B24.3: a reserved bit is set"),
            0 if self.reading.is_some() => Ok(()),
            2 if self.reading.is_none() => Ok(()),
            0 | 2 => Err("B24.2: a frame is out of order"),
            1 => Err("B24.1: the server's message is a text"),
            8..=10 if frame.is_last() && is_short => Ok(()),
            8..=10 => Err("B24.2: a control frame is in parts, or too long"),
            _ => Err("B24.2: RFC 6455 does not define this opcode"),
        }
    }
}

fn fault(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Response {
    fn parse(head: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(head).map_err(|_| "the response is no text")?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("{first:?} is no response of HTTP/1.1"))?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(Self { status, headers: lines.filter_map(header).collect() })
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(one, _)| one == name);
        found.map(|(_, value)| &value[..]).collect()
    }

    /// Whether it opens a WebSocket.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let is = |name, value: &str| matches!(&self.all(name)[..], [one] if *one == value);
        let is_like =
            |name, value: &str| self.all(name).iter().any(|one| one.eq_ignore_ascii_case(value));
        let why = match () {
            () if self.status != 101 => {
                return Err(format!("the request was answered with the status {}", self.status));
            }
            () if !is_like("upgrade", "websocket") || !is_like("connection", "upgrade") => {
                "RFC 6455: `Upgrade` or `Connection` is wrong"
            }
            () if !is("sec-websocket-accept", ACCEPT) => "RFC 6455: the accepted key is wrong",
            () if !is("sec-websocket-protocol", "bellwire.v1") => {
                "S24.1: the subprotocol is not echoed"
            }
            () if !self.all("sec-websocket-extensions").is_empty() => {
                "B24.3: the server uses an extension"
            }
            () => return Ok(()),
        };
        Err(why.to_owned())
    }
}

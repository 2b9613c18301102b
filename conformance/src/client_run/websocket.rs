//! The server's end of a WebSocket: the opening handshake, and what each frame of the client has to
//! be.

use base64::{Engine, prelude::BASE64_STANDARD};
use sha1_smol::Sha1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::frame::{CLOSE, FIN, Frame, PING, PONG};

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How the server answers requests.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Changed headers: `Name: value`, or `-Name` without it.
    pub(crate) changes: Vec<String>,
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: 101, changes: Vec::new() }
    }
}

impl Answer {
    fn response(&self, accept: &str) -> String {
        let mut headers: Vec<(&str, &str)> = match self.status {
            101 => vec![
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", accept),
                ("Sec-WebSocket-Protocol", "bellwire.v1"),
            ],
            _ => vec![("Connection", "close"), ("Content-Length", "0")],
        };
        for change in &self.changes {
            let (name, value) = match change.split_once(": ") {
                Some((name, value)) => (name, Some(value)),
                None => (change.trim_start_matches('-'), None),
            };
            headers.retain(|(one, _)| !one.eq_ignore_ascii_case(name));
            headers.extend(value.map(|value| (name, value)));
        }
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("HTTP/1.1 {} Test\r\n{}\r\n", self.status, lines.collect::<String>())
    }
}

/// Reads a request, and answers it. Returns the connection if it is a WebSocket now, and what came
/// behind the request.
///
/// # Errors
/// The rule that the request breaks.
pub(crate) async fn open(
    mut stream: TcpStream,
    answer: &Answer,
) -> Result<Option<(TcpStream, Vec<u8>)>, String> {
    let mut unread = Vec::new();
    let end = loop {
        if let Some(end) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        // A client that races addresses drops those that it does not take.
        let Ok(1..) = stream.read_buf(&mut unread).await else { return Ok(None) };
    };
    let rest = unread.split_off(end);
    let head = String::from_utf8(unread).map_err(|_| "the request is no text")?;
    let response = answer.response(&check(&head)?);
    // The client may be gone.
    let _ = stream.write_all(response.as_bytes()).await;
    if answer.status == 101 {
        return Ok(Some((stream, rest)));
    }
    let _ = stream.shutdown().await;
    Ok(None)
}

/// Checks a request. Returns the answer to its key.
fn check(head: &str) -> Result<String, String> {
    let value = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(one, _)| one.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    };
    let has = |name: &str, token: &str| {
        let mut list = value(name).unwrap_or_default().split(',');
        list.any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    let key = value("sec-websocket-key").unwrap_or_default();
    let is_key = BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    let why = match () {
        () if !has("sec-websocket-protocol", "bellwire.v1") => {
            "C24.1: the request does not ask for bellwire.v1"
        }
        () if head.contains("secret") || value("authorization").is_some() => {
            "C24.2: there are credentials in the request"
        }
        () if !head.starts_with("GET /") || value("host").is_none() || !is_key => {
            "RFC 6455: the request has no target, no host or no key"
        }
        () if !has("upgrade", "websocket")
            || !has("connection", "upgrade")
            || value("sec-websocket-version") != Some("13") =>
        {
            "RFC 6455: the request does not ask for a WebSocket of version 13"
        }
        () => {
            let mut hash = Sha1::new();
            hash.update(key.as_bytes());
            hash.update(GUID.as_bytes());
            return Ok(BASE64_STANDARD.encode(hash.digest().bytes()));
        }
    };
    Err(format!("{why}:\n{head}"))
}

/// What a frame brings.
#[derive(Debug)]
pub(crate) enum Part {
    /// Payload of a message.
    Payload(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The close frame, with its code if it has one.
    Close(Option<u16>),
}

/// The frames of a client.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    unread: Vec<u8>,
    /// The last byte of the message that the client is sending, if it has begun one.
    reading: Option<Option<u8>>,
    has_closed: bool,
}

impl Frames {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next one that is complete.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, &'static str> {
        let Some(frame) = Frame::take(&mut self.unread) else { return Ok(None) };
        self.check(&frame)?;
        let Frame { first, payload, .. } = frame;
        Ok(Some(match first {
            PING => Part::Ping(payload),
            PONG => Part::Pong(payload),
            CLOSE => {
                self.has_closed = true;
                Part::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code)))
            }
            _ => {
                let last = payload.last().copied().or(self.reading.take().flatten());
                let is_end = first & FIN != 0;
                if is_end && last != Some(b'\n') {
                    return Err("B24.1: a message does not end with a whole line");
                }
                self.reading = (!is_end).then_some(last);
                Part::Payload(payload)
            }
        }))
    }

    fn check(&self, frame: &Frame) -> Result<(), &'static str> {
        let is_short = frame.payload.len() <= 125;
        match frame.opcode() {
            _ if self.has_closed => Err("B24.2: there is a frame behind the close frame"),
            _ if !frame.is_masked => Err("B24.2: the client's frame has no mask"),
            _ if frame.first & 0x70 != 0 => Err("B24.3: a reserved bit is set"),
            0 if self.reading.is_some() => Ok(()),
            2 if self.reading.is_none() => Ok(()),
            0 | 2 => Err("B24.2: a frame is out of order"),
            1 => Err("B24.1: the client's message is a text"),
            8..=10 if frame.is_last() && is_short => Ok(()),
            8..=10 => Err("B24.2: a control frame is in parts, or too long"),
            _ => Err("B24.2: RFC 6455 does not define this opcode"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_has_its_answer() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Protocol: bellwire.v1\r\n\r\n";
        assert_eq!(check(head).as_deref(), Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let other = check(&head.replace("bellwire.v1", "chat")).unwrap_err();
        assert!(other.starts_with("C24.1"), "{other}");
    }
}

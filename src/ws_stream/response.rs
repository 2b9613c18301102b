//! The client's part of the opening handshake: it writes the request, and checks the response.

use std::{fmt, future::poll_fn, io};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use crate::{
    random::Random,
    ws_stream::{
        SUBPROTOCOL,
        frame::Role,
        head::{Head, MAX_HEADERS, Read},
        limits::WsConfig,
        request::{Headers, accept_of},
        stream::WsStream,
        url::WsUrl,
    },
};

/// Why a server's response does not open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoWebSocket {
    /// The response is not one of HTTP/1.1.
    NotHttp,
    /// The response has another status than 101. If it is 403, the server refuses the origin; if it
    /// is 404, the path.
    Status(u16),
    /// The response does not answer the request, or is over the limit.
    Malformed,
    /// The server does not speak the subprotocol `bellwire.v1`.
    Subprotocol,
}

impl fmt::Display for NoWebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHttp => f.write_str("the server does not speak HTTP"),
            Self::Status(status) => {
                write!(f, "the server refused the WebSocket, with the HTTP status {status}")
            }
            Self::Malformed => f.write_str("the server's answer does not open a WebSocket"),
            Self::Subprotocol => f.write_str("the server does not speak bellwire.v1"),
        }
    }
}

impl std::error::Error for NoWebSocket {}

impl From<NoWebSocket> for io::Error {
    fn from(error: NoWebSocket) -> Self {
        let kind = match error {
            NoWebSocket::Status(_) => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Opens a WebSocket to `url` over a transport that is connected already.
///
/// # Errors
/// The transport's, and [`NoWebSocket`].
pub(crate) async fn open<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: T,
    url: &WsUrl<'_>,
    config: &WsConfig,
) -> io::Result<WsStream<T>> {
    let key = BASE64_STANDARD.encode(Uuid::new_v4());
    io.write_all(request(url, &key).as_bytes()).await?;
    io.flush().await?;
    let mut head = Head::new(b"HTTP/");
    let (head, rest) =
        match poll_fn(|cx| head.poll_read(config.get_max_head(), &mut io, cx)).await? {
            Read::Whole { head, rest } => (head, rest),
            Read::TooLong => return Err(NoWebSocket::Malformed.into()),
            Read::Foreign => return Err(NoWebSocket::NotHttp.into()),
        };
    check_response(&head, &key)?;
    let stream = WsStream::opened(io, Role::Client, config.get_max_message(), rest);
    Ok(stream.with_masks(Random::from_system()))
}

fn request(url: &WsUrl<'_>, key: &str) -> String {
    let WsUrl { authority, target, .. } = url;
    format!(
        "GET {target} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )
}

fn check_response(head: &[u8], key: &str) -> Result<(), NoWebSocket> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    if !matches!(response.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(NoWebSocket::NotHttp);
    }
    match (response.version, response.code) {
        (Some(1), Some(101)) => {}
        (Some(0), _) => return Err(NoWebSocket::NotHttp),
        (_, status) => return Err(NoWebSocket::Status(status.unwrap_or_default())),
    }
    let headers: Headers<'_> =
        response.headers.iter().map(|header| (header.name, header.value)).collect();
    let accept = accept_of(key.as_bytes());
    let is_upgraded = headers.list("upgrade", "websocket") && headers.list("connection", "upgrade");
    let is_answer = headers.all("sec-websocket-accept").eq([accept.as_bytes()]);
    let has_extension = headers.all("sec-websocket-extensions").next().is_some();
    if !is_upgraded || !is_answer || has_extension {
        return Err(NoWebSocket::Malformed);
    }
    match headers.all("sec-websocket-protocol").eq([SUBPROTOCOL.as_bytes()]) {
        true => Ok(()),
        false => Err(NoWebSocket::Subprotocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn the_response_is_checked() {
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    Sec-WebSocket-Protocol: bellwire.v1\r\n\r\n";
        let check = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            check_response(good.replacen(from, to, 1).as_bytes(), KEY)
        };
        assert_eq!(check("", ""), Ok(()));
        assert_eq!(check("HTTP/1.1", "* /hello"), Err(NoWebSocket::NotHttp));
        assert_eq!(check("HTTP/1.1", "HTTP/1.0"), Err(NoWebSocket::NotHttp));
        assert_eq!(check("101", "403"), Err(NoWebSocket::Status(403)));
        for (from, to) in [
            ("Upgrade: websocket\r\n", ""),
            ("Connection: Upgrade", "Connection: close"),
            ("s3pP", "s3pQ"),
            ("Upgrade:", "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:"),
        ] {
            assert_eq!(check(from, to), Err(NoWebSocket::Malformed), "{from}");
        }
        assert_eq!(check("bellwire.v1", "chat"), Err(NoWebSocket::Subprotocol));
        let without = check("Sec-WebSocket-Protocol: bellwire.v1\r\n", "");
        assert_eq!(without, Err(NoWebSocket::Subprotocol));
    }
}

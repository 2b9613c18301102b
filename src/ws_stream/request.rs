//! The server's part of the opening handshake: it checks the request, and answers it.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use sha1_smol::Sha1;

use crate::ws_stream::{
    SUBPROTOCOL,
    head::{MAX_HEADERS, has_token},
    limits::WsConfig,
    origin::Origins,
};

/// What a server appends to a key before it hashes it (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The bytes of a key.
const KEY: usize = 16;

/// An accepted request to open a WebSocket.
///
/// The status of the response is 101, and it has these [headers](Self::headers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    accept: String,
}

impl Accepted {
    /// The headers of the response, in lower case.
    pub fn headers(&self) -> [(&'static str, &str); 4] {
        [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", &self.accept),
            ("sec-websocket-protocol", SUBPROTOCOL),
        ]
    }

    /// The whole response.
    pub(crate) fn response(&self) -> String {
        respond("101 Switching Protocols", &self.headers(), "")
    }
}

/// Why a request was refused. [`Display`](fmt::Display) is the text of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not a well-formed request of HTTP/1.1 that opens a WebSocket. Status 400.
    Malformed,
    /// It does not ask for the subprotocol `bellwire.v1`. Status 400.
    Subprotocol,
    /// It comes from a page of an origin that is not allowed. Status 403.
    Origin,
    /// It is for another path. Status 404.
    Path,
    /// It asks for another version of WebSocket than 13, for none, or for no WebSocket. Status 426.
    Version,
    /// It is too long, or has too many headers. Status 431.
    TooLong,
}

impl Refusal {
    /// The status of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::Subprotocol => 400,
            Self::Origin => 403,
            Self::Path => 404,
            Self::Version => 426,
            Self::TooLong => 431,
        }
    }

    /// The headers of the response, in lower case.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Version => &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
            ],
            _ => &[("connection", "close")],
        }
    }

    /// The whole response.
    pub(crate) fn response(self) -> String {
        let words = match self.status() {
            400 => "400 Bad Request",
            403 => "403 Forbidden",
            404 => "404 Not Found",
            426 => "426 Upgrade Required",
            _ => "431 Request Header Fields Too Large",
        };
        let text = format!("{self}\n");
        let length = text.len().to_string();
        let own = [("content-type", "text/plain"), ("content-length", length.as_str())];
        respond(words, &[self.headers(), &own].concat(), &text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "this is not a request that opens a WebSocket",
            Self::Subprotocol => "the subprotocol bellwire.v1 is required",
            Self::Origin => "pages of this origin may not connect",
            Self::Path => "there is no WebSocket at this path",
            Self::Version => "version 13 of WebSocket is required",
            Self::TooLong => "the request is too long",
        })
    }
}

impl std::error::Error for Refusal {}

fn respond(status: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut response = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        response.extend([name, ": ", value, "\r\n"]);
    }
    response.extend(["\r\n", body]);
    response
}

/// Checks a whole request.
pub(crate) fn check_request(head: &[u8], config: &WsConfig) -> Result<Accepted, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLong),
        _ => return Err(Refusal::Malformed),
    }
    if (request.method, request.version) != (Some("GET"), Some(1)) {
        return Err(Refusal::Malformed);
    }
    let path = request.path.unwrap_or_default().split('?').next();
    if config.get_path().is_some_and(|only| path != Some(only)) {
        return Err(Refusal::Path);
    }
    let headers = request.headers.iter().map(|header| (header.name, header.value));
    check_headers(headers, config.get_origins())
}

/// Checks the headers of a request.
pub(crate) fn check_headers<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    origins: &Origins,
) -> Result<Accepted, Refusal> {
    let headers: Headers<'_> = headers.into_iter().collect();
    let is_version_13 = headers.all("sec-websocket-version").eq([b"13"]);
    if !headers.list("upgrade", "websocket") || !is_version_13 {
        return Err(Refusal::Version);
    }
    if !headers.list("connection", "upgrade") || headers.has_body() {
        return Err(Refusal::Malformed);
    }
    let (host, key) = (headers.one("host")?, headers.one("sec-websocket-key")?);
    if !BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == KEY) {
        return Err(Refusal::Malformed);
    }
    // Browsers send one. Whatever has several must not be mistaken for the one that is allowed.
    let mut sent = headers.all("origin");
    match (sent.next(), sent.next()) {
        (None, _) => {}
        (Some(origin), None) if origins.allow(origin, host) => {}
        _ => return Err(Refusal::Origin),
    }
    if !headers.all("sec-websocket-protocol").any(has_subprotocol) {
        return Err(Refusal::Subprotocol);
    }
    Ok(Accepted { accept: accept_of(key) })
}

/// Whether a list of subprotocols has bellwire's. Their case counts.
fn has_subprotocol(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|one| one.trim_ascii() == SUBPROTOCOL.as_bytes())
}

/// The `Sec-WebSocket-Accept` of a key.
pub(crate) fn accept_of(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID.as_bytes());
    BASE64_STANDARD.encode(hash.digest().bytes())
}

/// The headers of a request or a response.
pub(crate) struct Headers<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> FromIterator<(&'a str, &'a [u8])> for Headers<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(headers: I) -> Self {
        let trimmed = |(name, value): (&'a str, &'a [u8])| (name, value.trim_ascii());
        Self(headers.into_iter().map(trimmed).collect())
    }
}

impl<'a> Headers<'a> {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let is_it = move |(one, _): &&(&'a str, &'a [u8])| one.eq_ignore_ascii_case(name);
        self.0.iter().filter(is_it).map(|(_, value)| *value)
    }

    /// The value of a header that has to be there once.
    fn one(&self, name: &str) -> Result<&'a [u8], Refusal> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(Refusal::Malformed),
        }
    }

    /// Whether a header that is a list has this token.
    pub(crate) fn list(&self, name: &str, token: &str) -> bool {
        self.all(name).any(|list| has_token(list, token))
    }

    fn has_body(&self) -> bool {
        self.all("transfer-encoding").next().is_some()
            || self.all("content-length").any(|length| length != b"0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [(&str, &str); 7] = [
        ("Host", "offers.example"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "chat, bellwire.v1"),
        ("Origin", "http://offers.example"),
    ];

    /// The request, with one header changed, or left out.
    fn check(name: &str, value: Option<&str>) -> Result<Accepted, Refusal> {
        let mut head = "GET /b?x=1 HTTP/1.1\r\n".to_owned();
        for (one, old) in REQUEST {
            let new = if one == name { value } else { Some(old) };
            new.into_iter().for_each(|new| head += &format!("{one}: {new}\r\n"));
        }
        check_request((head + "\r\n").as_bytes(), &WsConfig::new().path("/b"))
    }

    #[test]
    fn the_key_of_the_rfc_has_its_answer() {
        let accepted = check("", None).expect("it is well-formed");
        assert_eq!(accepted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accepted.response().ends_with("sec-websocket-protocol: bellwire.v1\r\n\r\n"));
    }

    #[test]
    fn each_header_is_checked() {
        use Refusal::{Malformed, Origin, Subprotocol, Version};
        for (name, value, refusal) in [
            ("Host", None, Malformed),
            ("Host", Some("a\r\nHost: b"), Malformed),
            ("Upgrade", None, Version),
            ("Upgrade", Some("h2c"), Version),
            ("Connection", Some("close"), Malformed),
            ("Connection", Some("upgrade\r\nContent-Length: 5"), Malformed),
            ("Connection", Some("upgrade\r\nTransfer-Encoding: chunked"), Malformed),
            ("Sec-WebSocket-Key", Some("c2hvcnQ="), Malformed),
            ("Sec-WebSocket-Key", Some("?"), Malformed),
            ("Sec-WebSocket-Version", Some("8"), Version),
            ("Sec-WebSocket-Version", Some("8, 13"), Version),
            ("Sec-WebSocket-Version", None, Version),
            ("Sec-WebSocket-Protocol", None, Subprotocol),
            ("Sec-WebSocket-Protocol", Some("bellwire.v2"), Subprotocol),
            ("Sec-WebSocket-Protocol", Some("BELLWIRE.V1"), Subprotocol),
            ("Origin", Some("http://evil.example"), Origin),
            ("Origin", Some("http://offers.example\r\nOrigin: http://evil.example"), Origin),
        ] {
            assert_eq!(check(name, value), Err(refusal), "{name}: {value:?}");
        }
        assert!(check("Origin", None).is_ok());
    }

    #[test]
    fn the_request_line_is_checked() {
        for (line, refusal) in [
            ("POST /b HTTP/1.1", Refusal::Malformed),
            ("GET /b HTTP/1.0", Refusal::Malformed),
            ("GET /c HTTP/1.1", Refusal::Path),
            ("1 echo hello", Refusal::Malformed),
        ] {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            let checked = check_request(head.as_bytes(), &WsConfig::new().path("/b"));
            assert_eq!(checked, Err(refusal), "{line}");
        }
        let many = "GET /b HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(101) + "\r\n";
        let checked = check_request(many.as_bytes(), &WsConfig::new());
        assert_eq!(checked, Err(Refusal::TooLong));
    }
}

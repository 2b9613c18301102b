//! Lines as a `tokio_util::codec`: for your own programs that use `Framed`.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::protocol::{
    AttributeList, DEFAULT_MAX_LINE, Line, LineDecoder, LineTooLong, Malformed, Mark, Word, encode,
};

/// A line that owns its parts. Its body is plain, that is unstuffed (PROTOCOL.md, section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedLine {
    mark: Mark,
    word: String,
    attributes: AttributeList,
    rest: Bytes,
}

impl OwnedLine {
    /// A line without attributes.
    pub fn new(mark: Mark, word: Word<'_>, rest: impl Into<Bytes>) -> Self {
        let attributes = AttributeList::new();
        Self { mark, word: word.as_str().to_owned(), attributes, rest: rest.into() }
    }

    /// The same line with these attributes.
    #[must_use]
    pub fn with_attributes(mut self, attributes: AttributeList) -> Self {
        self.attributes = attributes;
        self
    }

    /// The id, or the reserved channel.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The word: a method, a topic, `ok`, or another word of the protocol.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// The attributes.
    pub fn attributes(&self) -> &AttributeList {
        &self.attributes
    }

    /// The body, unstuffed; empty if there is none.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl From<Line<'_>> for OwnedLine {
    fn from(line: Line<'_>) -> Self {
        Self {
            mark: line.mark,
            word: line.word.as_str().to_owned(),
            attributes: line.attributes.to_list(),
            rest: line.rest.plain().into_owned().into(),
        }
    }
}

/// What a [`LineCodec`] read: a line, or the fault of a malformed line. A malformed line is an item
/// and not an error, because the stream goes on after it.
pub type CodecItem = Result<OwnedLine, Malformed>;

/// Why a [`LineCodec`] cannot continue.
#[derive(Debug)]
#[non_exhaustive]
pub enum LineCodecError {
    /// A line reached its limit without an LF.
    TooLong(LineTooLong),
    /// The transport failed.
    Io(std::io::Error),
}

impl std::fmt::Display for LineCodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LineCodecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TooLong(error) => Some(error),
            Self::Io(error) => Some(error),
        }
    }
}

impl From<std::io::Error> for LineCodecError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// A decoder and encoder of lines, with items that own their bytes. Feature `codec`.
///
/// The library's own client and server do not use it: they read lines in place.
///
/// ```
/// use bellwire::codec::{LineCodec, OwnedLine};
/// use bellwire::protocol::{Mark, RequestId, Word};
/// use futures::{SinkExt, StreamExt};
/// use tokio_util::codec::Framed;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (near, far) = tokio::io::duplex(1_024);
/// let (mut near, mut far) = (Framed::new(near, LineCodec::new()), Framed::new(far, LineCodec::new()));
/// let mark = Mark::Id(RequestId::new(1).unwrap());
/// let request = OwnedLine::new(mark, Word::new("echo").unwrap(), "two\nlines");
/// near.send(&request).await.unwrap();
/// assert_eq!(far.next().await.unwrap().unwrap(), Ok(request));
/// # }
/// ```
#[derive(Debug)]
pub struct LineCodec {
    lines: LineDecoder,
    max_line: usize,
}

impl LineCodec {
    /// A codec for lines of at most 65,535 bytes, LF included.
    pub fn new() -> Self {
        Self::with_max_line(DEFAULT_MAX_LINE)
    }

    /// A codec for lines of at most `max_line` bytes, LF included.
    pub fn with_max_line(max_line: usize) -> Self {
        Self { lines: LineDecoder::new(max_line), max_line }
    }
}

impl Default for LineCodec {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder for LineCodec {
    type Item = CodecItem;
    type Error = LineCodecError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<CodecItem>, LineCodecError> {
        let mut input = &buffer[..];
        let item = match self.lines.next(&mut input) {
            Ok(line) => line.map(|line| Line::parse(line).map(OwnedLine::from)),
            Err(error) => return Err(LineCodecError::TooLong(error)),
        };
        let left = input.len();
        let _ = buffer.split_to(buffer.len() - left);
        Ok(item)
    }

    /// Bytes without an LF are dropped at the end of the stream.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<CodecItem>, LineCodecError> {
        self.decode(buffer)
    }
}

/// # Errors
/// [`LineCodecError::TooLong`] for a line over the limit. Nothing is written then.
impl Encoder<&OwnedLine> for LineCodec {
    type Error = LineCodecError;

    fn encode(&mut self, line: &OwnedLine, buffer: &mut BytesMut) -> Result<(), LineCodecError> {
        // The word was validated when the line was made.
        let Some(word) = Word::new(&line.word) else { return Ok(()) };
        let mut out = Vec::new();
        encode::line(&mut out, line.mark, word, line.attributes.as_attributes(), &line.rest);
        if out.len() > self.max_line {
            let error = LineTooLong { max_line: self.max_line, offset: 0 };
            return Err(LineCodecError::TooLong(error));
        }
        buffer.extend_from_slice(&out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_line_is_an_item_and_an_overlong_one_an_error() {
        let mut codec = LineCodec::with_max_line(16);
        let mut buffer = BytesMut::from(&b"1 a x\nnonsense\n2 b"[..]);
        let first = codec.decode(&mut buffer).unwrap().unwrap().unwrap();
        assert_eq!((first.word(), &first.rest()[..]), ("a", &b"x"[..]));
        assert_eq!(codec.decode(&mut buffer).unwrap().unwrap().unwrap_err().at, 0);
        assert!(codec.decode(&mut buffer).unwrap().is_none());
        assert!(buffer.is_empty());
        buffer.extend_from_slice(b" and so on for ever");
        assert!(matches!(codec.decode(&mut buffer), Err(LineCodecError::TooLong(_))));
    }

    #[test]
    fn a_line_over_the_limit_is_not_written() {
        let mut codec = LineCodec::with_max_line(8);
        let mut buffer = BytesMut::new();
        let word = Word::new("a").unwrap();
        codec.encode(&OwnedLine::new(Mark::Reserved, word, "1234"), &mut buffer).unwrap_err();
        assert!(buffer.is_empty());
        codec.encode(&OwnedLine::new(Mark::Reserved, word, "123"), &mut buffer).unwrap();
        assert_eq!(&buffer[..], b"* a 123\n");
    }
}

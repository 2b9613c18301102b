//! A peer that writes and reads bytes, for dialogues with either end.

use std::fmt::Debug;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::bound::{bounded, watch};

/// A peer that writes and reads bytes.
pub struct RawPeer<T> {
    pub io: T,
    read: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> RawPeer<T> {
    pub fn new(io: T) -> Self {
        watch();
        Self { io, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        bounded("room to write", self.io.write_all(bytes.as_ref())).await.expect("written");
    }

    /// The next line, with its LF; `None` at the end of the stream.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.read.iter().position(|&byte| byte == b'\n') {
                let line = self.read.drain(..=at).collect();
                return Some(String::from_utf8(line).expect("UTF-8"));
            }
            if self.read_more("a line, or the end").await == 0 {
                assert!(self.read.is_empty(), "the last line is whole");
                return None;
            }
        }
    }

    async fn read_more(&mut self, what: &str) -> usize {
        bounded(what, self.io.read_buf(&mut self.read)).await.expect("read")
    }

    /// Reads the server's `/hello`.
    pub async fn hello(&mut self) -> String {
        let line = self.line().await.expect("a first line");
        assert!(line.starts_with("* /hello;version=1;"), "{line}");
        line
    }

    /// Expects exactly these lines next.
    pub async fn expect(&mut self, lines: impl AsRef<str> + Debug) {
        for expected in lines.as_ref().split_inclusive('\n') {
            assert_eq!(self.line().await.as_deref(), Some(expected));
        }
    }

    /// Expects the end of the stream, with nothing before it.
    pub async fn expect_closed(&mut self) {
        assert_eq!(self.line().await, None);
    }

    /// The next `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.read_more("more bytes").await > 0, "the peer closed");
        }
        self.read.drain(..count).collect()
    }

    /// Waits until there is something to read, without consuming it.
    pub async fn expect_something(&mut self) {
        if self.read.is_empty() {
            assert!(self.read_more("a byte").await > 0, "the peer closed");
        }
    }

    /// Expects nothing to read after all other tasks had their turns.
    pub async fn expect_silence(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut byte = [0];
        let is_silent = futures::poll!(std::pin::pin!(self.io.read(&mut byte))).is_pending();
        assert!(is_silent && self.read.is_empty(), "the peer wrote {byte:?} {:?}", self.read);
    }

    /// Sends `bytes`, then expects these lines.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>, lines: impl AsRef<str> + Debug) {
        self.send(bytes).await;
        self.expect(lines).await;
    }

    /// Ends this direction. The peer still answers what was sent.
    pub async fn half_close(&mut self) {
        bounded("the half-close", self.io.shutdown()).await.expect("shut down");
    }

    /// The value of an attribute of the next line.
    pub async fn attribute(&mut self, key: &str) -> String {
        let line = self.line().await.expect("a line");
        let head = line.trim_end().split(' ').take(2).last().expect("a head");
        let mut attributes = head.split(';').filter_map(|one| one.split_once('='));
        let found = attributes.find(|(found, _)| *found == key);
        found.unwrap_or_else(|| panic!("{key} in {line}")).1.to_owned()
    }
}

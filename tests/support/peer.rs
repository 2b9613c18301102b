//! A raw peer that deals in whole lines, as PROTOCOL.md prints them: without their LF.

#![allow(dead_code, reason = "each test crate uses its part")]

use tokio::io::{AsyncRead, AsyncWrite};

use crate::support;

/// One end of a connection, line by line.
pub(crate) struct RawPeer(support::RawPeer<Box<dyn Transport>>);

pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

impl RawPeer {
    pub(crate) fn new(io: impl Transport + 'static) -> Self {
        Self(support::RawPeer::new(Box::new(io)))
    }

    /// Writes a line, LF added, in one write.
    pub(crate) async fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.send(bytes).await;
    }

    /// Ends this side's direction of the stream.
    pub(crate) async fn finish(&mut self) {
        self.0.half_close().await;
    }

    /// The next line, without its LF.
    pub(crate) async fn line(&mut self) -> String {
        let line = self.0.line().await.expect("the peer closed instead of writing a line");
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    /// The next line must be this one.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { assert_eq!(self.line().await, line, "expected at {caller}") }
    }

    /// The next `count` bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.0.bytes(count).await
    }

    /// The peer has closed, and wrote nothing before that.
    pub(crate) async fn expect_closed(&mut self) {
        self.0.expect_closed().await;
    }

    /// Nothing is there to be read, once every other task has had its turns.
    pub(crate) async fn expect_silence(&mut self) {
        self.0.expect_silence().await;
    }
}

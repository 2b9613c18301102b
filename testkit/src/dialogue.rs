//! A raw peer for dialogues: lines without their LF, and every wait has a bound.

use std::time::Duration;

use tokio::{io::DuplexStream, time::timeout};

use crate::RawPeer;

/// The bound on a line on the paused clock. It is longer than any deadline of the protocol, so a
/// line that never comes fails the test instead of blocking it.
const PATIENCE: Duration = Duration::from_secs(120);

/// One end of a pipe, driven by the test.
pub struct Peer(RawPeer<DuplexStream>);

impl Peer {
    pub fn new(io: DuplexStream) -> Self {
        Self(RawPeer::new(io))
    }

    /// Writes lines in one write, and adds the last LF.
    pub async fn send(&mut self, lines: &str) {
        self.0.send(format!("{lines}\n")).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.send(bytes).await;
    }

    /// Ends this side's direction of the stream.
    pub async fn finish(&mut self) {
        self.0.half_close().await;
    }

    /// The next line, without its LF.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.0.line()).await.expect("the peer wrote nothing");
        let mut line = line.expect("the peer closed instead of writing a line");
        line.truncate(line.len() - 1);
        line
    }

    /// Expects this line next.
    pub async fn expect(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    /// Waits until a line can be read.
    pub async fn read_ahead(&mut self) {
        timeout(PATIENCE, self.0.expect_something()).await.expect("the peer wrote nothing");
    }

    /// Expects that the peer has closed, and wrote nothing before that.
    pub async fn expect_closed(&mut self) {
        timeout(PATIENCE, self.0.expect_closed()).await.expect("the peer does not close");
    }

    /// Expects nothing to read after all other tasks had their turns.
    pub async fn expect_silence(&mut self) {
        self.0.expect_silence().await;
    }
}

//! A raw peer as a dialogue has it: lines without their LF, and no wait without an end.

use std::time::Duration;

use tokio::{io::DuplexStream, time::timeout};

use crate::RawPeer;

/// How long a line may take on the paused clock: longer than any deadline of the protocol's, so
/// that what never comes fails the test instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(120);

/// One end of a pipe, by hand.
pub struct Peer(RawPeer<DuplexStream>);

impl Peer {
    pub fn new(io: DuplexStream) -> Self {
        Self(RawPeer::new(io))
    }

    /// Writes lines, the last LF added, in one write.
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

    /// The next line must be this one.
    pub async fn expect(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    /// Waits until there is a line to be read.
    pub async fn read_ahead(&mut self) {
        timeout(PATIENCE, self.0.expect_something()).await.expect("the peer wrote nothing");
    }

    /// The peer has closed, and wrote nothing before that.
    pub async fn expect_closed(&mut self) {
        timeout(PATIENCE, self.0.expect_closed()).await.expect("the peer does not close");
    }

    /// Nothing is there to be read, once every other task has had its turns.
    pub async fn expect_silence(&mut self) {
        self.0.expect_silence().await;
    }
}
